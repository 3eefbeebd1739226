"""Runs the systems of a part beside each other and measures them in turn."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine.turbomind.machine.driver import read_gpu
from internvl_server.planner.gpus import GIB
from internvl_server.planner.memory import Deployment, make_plan
from internvl_server.settings import ModelSettings

from scripts.gpu_bench.parts import Measure, Part, System, SystemKind
from scripts.gpu_bench.pipeline import RawPipeline
from scripts.gpu_bench.records import Record, Records
from scripts.load.servers import ServerError
from scripts.load.systems import lmdeploy, ours

__all__ = ["Bench"]

_CONTEXT = 32_768
_FRESH = 100_000  # prompts and pictures of a measurement


@dataclass
class Bench:
    """One checkpoint on one GPU.

    Args:
        folder: The checkpoint.
        work: Gets logs and settings.
        records: Measurements so far.
        deadline: `time.monotonic()` after which none begins.
        rounds: Of each measurement.
        cache_gib: Key-value cache of each system.
        stand_in: Options of the stand-ins; None on a GPU.
    """

    folder: Path
    work: Path
    records: Records
    deadline: float
    rounds: int = 1
    cache_gib: float = 12.0
    stand_in: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._checkpoint = load_checkpoint(ModelSettings(path=str(self.folder)))
        self._numbers = iter(range(int(time.time()) * _FRESH, sys.maxsize, _FRESH))
        self._running: dict[str, System] = {}
        self._problems: dict[str, str] = {}
        self._most = 1

    @property
    def tile_px(self) -> int:
        return self._checkpoint.tile_px

    async def run(self, chosen: Sequence[Part], max_num_seqs: int) -> None:
        """Measure what is missing."""
        self._most = max_num_seqs
        try:
            for part in chosen:
                if self._missing(part) and time.monotonic() < self.deadline:
                    print(f"{part.name} ...", file=sys.stderr, flush=True)
                    await self._start(part)
                    await self._measure(part)
        finally:
            await self._stop_all_but(())

    def _missing(self, part: Part) -> list[tuple[Measure, int, SystemKind]]:
        return [
            (measure, number, kind)
            for measure in part.measures
            for number in range(self.rounds)
            for kind in part.systems
            if not self.records.has((part.name, measure.name, kind.title, number))
        ]

    async def _start(self, part: Part) -> None:
        """Start the systems of a part that do not run yet, and stop the others."""
        await self._stop_all_but(kind.title for kind in part.systems)
        self._problems.clear()
        for kind in part.systems:
            if kind.title not in self._running:
                try:
                    self._running[kind.title] = system = self._new(kind)
                    await system.start()
                except (ServerError, OSError) as error:
                    self._problems[kind.title] = f"it did not start: {error}"

    async def _stop_all_but(self, titles: Iterable[str]) -> None:
        for title in self._running.keys() - set(titles):
            await self._running.pop(title).stop()

    async def _measure(self, part: Part) -> None:
        for measure, number, kind in self._missing(part):
            if time.monotonic() > self.deadline:
                return
            figures: dict[str, Any] = {}
            problem = self._problems.get(kind.title, "")
            if not problem:
                try:
                    figures = await measure.run(self._running[kind.title], next(self._numbers))
                except (ServerError, ValueError, OSError) as error:
                    problem = f"{type(error).__name__}: {error}"[:400]
            self.records.add(Record(part.name, measure.name, kind.title, number, figures, problem))

    def _new(self, kind: SystemKind) -> System:
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
                "max_num_seqs": self._most,
                "turbomind": {"cache_max_entry_count": min(0.9, round(share, 6)), **engine},
            },
            "limits": {"max_in_flight": 1024, "max_tiles_in_flight": 8192},
        }
