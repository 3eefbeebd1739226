"""Starts the systems that are compared, each with a key-value cache of the same size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine.turbomind.machine.driver import read_gpu
from internvl_server.planner.gpus import GIB
from internvl_server.planner.memory import Deployment, make_plan
from internvl_server.settings import ModelSettings

from scripts.gpu_bench.pipeline import RawPipeline
from scripts.load.systems import lmdeploy, ours
from scripts.load.turns.parts import System, SystemKind

__all__ = ["Starter"]

_CONTEXT = 32_768


@dataclass
class Starter:
    """One checkpoint on one GPU.

    Args:
        folder: The checkpoint.
        work: Gets logs and settings.
        max_num_seqs: Of each system.
        cache_gib: Key-value cache of each system.
        stand_in: Options of the stand-ins; None on a GPU.
    """

    folder: Path
    work: Path
    max_num_seqs: int
    cache_gib: float
    stand_in: Sequence[str] | None

    def __post_init__(self) -> None:
        self._checkpoint = load_checkpoint(ModelSettings(path=str(self.folder)))

    @property
    def tile_px(self) -> int:
        return self._checkpoint.tile_px

    def new(self, kind: SystemKind) -> System:
        values = self._values(dict(kind.engine))
        if kind.kind == "raw":
            return RawPipeline(values, self.work, stand_in=self.stand_in)
        start = ours if kind.kind == "ours" else lmdeploy
        return start(values, self.work, stand_in=self.stand_in, name=kind.title)

    def _values(self, engine: dict[str, Any]) -> dict[str, Any]:
        """Settings with a cache of the same size whatever runs on the GPU already."""
        context = min(_CONTEXT, self._checkpoint.config.text.max_position_embeddings)
        gpu = read_gpu(0)
        free = gpu.memory.free_bytes if gpu is not None else 0
        plan = make_plan(self._checkpoint.config, Deployment(context=context), free)
        share = self.cache_gib * GIB / max(plan.free_bytes, 1)
        return {
            "model": {
                "path": str(self.folder),
                "served_name": "model",
                "max_model_len": context,
            },
            "server": {"drain_s": 5},
            "engine": {
                "kind": "turbomind",
                "max_num_seqs": self.max_num_seqs,
                "turbomind": {"cache_max_entry_count": min(0.9, round(share, 6)), **engine},
            },
            "limits": {"max_in_flight": 1024, "max_tiles_in_flight": 8192},
        }
