"""The settings of a trial: what fits this machine, then a file, then `--set`, then the trial's own."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.planner.check import check_settings, fitting_plan
from internvl_server.planner.gpus import GpuMemory, GpuSet
from internvl_server.planner.memory import Deployment, MemoryPlan, make_plan, valid_tps
from internvl_server.settings.loading import find_config, load_settings

from scripts.load.systems import flat

__all__ = ["Deployed", "Machine", "largest_tp", "share_for"]

NUM_STREAMS = 64
DRAIN_S = 5


@dataclass(frozen=True)
class Deployed:
    """The settings as nested values, and the plan that the server makes for them."""

    values: dict[str, Any]
    plan: MemoryPlan

    @property
    def words(self) -> list[str]:
        """As options of `internvl-server serve`."""
        return [word for change in flat(self.values) for word in ("--set", change)]


@dataclass(frozen=True)
class Machine:
    """The GPUs, and what the user of a script asked for every trial."""

    gpus: Sequence[GpuMemory]
    config: str = ""
    changes: tuple[str, ...] = ()

    def deploy(
        self, folder: Path, config: CheckpointConfig, own: Sequence[str], tp: int = 1
    ) -> Deployed:
        """The settings of a trial.

        Raises:
            StartupError: The model does not fit with these settings.
            ValueError: There is no such setting or value.
        """
        values = _base(config, GpuSet.of(self.gpus), tp)
        if self.config:
            _merge(values, tomllib.loads(find_config(self.config).read_text(encoding="utf-8")))
        for change in (*self.changes, f"model.path={folder}", *own):
            _merge(values, _nested(change))
        settings = load_settings(None, values)
        plan = check_settings(settings, self.gpus[: settings.engine.turbomind.tp], config)
        assert plan is not None
        return Deployed(values, plan)


def largest_tp(config: CheckpointConfig, num_gpus: int) -> int:
    """The most GPUs over which TurboMind can split the model."""
    return max(valid_tps(config, num_gpus))


def share_for(num_tokens: int, config: CheckpointConfig, gpu_bytes: int) -> float:
    """The `cache_max_entry_count` with which the cache holds about so many tokens, on one GPU."""
    plan = make_plan(config, Deployment(context=num_tokens), gpu_bytes)
    return num_tokens * plan.kv_bytes_per_token / plan.free_bytes


def _base(config: CheckpointConfig, gpus: GpuSet, tp: int) -> dict[str, Any]:
    """What fits, or what the plan refuses with a reason."""
    asked = Deployment(tp=tp, max_num_seqs=NUM_STREAMS, context=config.text.max_position_embeddings)
    plan = fitting_plan(config, asked, gpus)
    deployment = plan.deployment if plan else asked
    return {
        "model": {"served_name": "model"},
        "server": {"drain_s": DRAIN_S},
        "engine": {
            "kind": "turbomind",
            "max_num_seqs": NUM_STREAMS,
            "turbomind": {
                "tp": tp,
                "cache_max_entry_count": deployment.cache_share,
                "max_prefill_token_num": deployment.max_prefill_tokens,
            },
        },
        "limits": {"max_in_flight": 512, "max_tiles_in_flight": 4096},
    }


def _nested(change: str) -> dict[str, Any]:
    """`a.b=1` as `{"a": {"b": 1}}`."""
    path, _, text = change.partition("=")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value
