"""The table of published models: what each needs, and whether it fits a machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.planner.check import best_plan, fitting_plan
from internvl_server.planner.gpus import GIB, GpuMemory, GpuSet, gib
from internvl_server.planner.memory import Deployment, valid_tps
from internvl_server.planner.models import MODELS, licence, repositories, smaller
from internvl_server.planner.parameters import num_parameters
from internvl_server.planner.sizes import CpuType, cpu_bytes, cpu_type_that_fits, file_bytes
from internvl_server.planner.support import CPU_TEXT_MODELS
from internvl_server.settings import EngineSettings

__all__ = ["Machine", "catalogue", "render_catalogue", "short_name"]

_GB = 10**9
_LARGEST_GPU_GB = 320  # more than any GPU has
_CPU_TYPES: tuple[CpuType, ...] = ("float32", "bfloat16", "int8")
_NOTES = """\
Weights are in GiB, as published. GPUs are the smallest of COUNTxGB that hold the 16-bit weights and the
whole context; "4-bit" are the -AWQ repositories. Licences are those of the model cards: of InternVL, and
of its text model. `internvl-server plan --model NAME` has more, and `internvl-server download
NAME` fetches the first repository."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a model may use: the memory of each GPU, and the main memory in bytes, None if not known."""

    gpus: Sequence[GpuMemory]
    memory_bytes: int | None

    def __str__(self) -> str:
        """The machine in a few words."""
        if self.gpus:
            return f"{len(self.gpus)} GPU(s) of {GpuSet.of(self.gpus)}"
        memory = "unknown" if self.memory_bytes is None else gib(self.memory_bytes)
        return f"no NVIDIA GPU; memory that can be taken: {memory}"


def short_name(model: CheckpointConfig) -> str:
    """The name for the command line: `internvl3-2b`, `internvl3.5-8b`."""
    return model.name.lower().replace("_5-", ".5-")


def catalogue(machine: Machine) -> list[dict[str, Any]]:
    """Every model that can be served as JSON; sizes in bytes, except for the memory of GPUs, in GB."""
    return [_facts(model, machine) for model in MODELS.values() if repositories(model)]


def _facts(model: CheckpointConfig, machine: Machine) -> dict[str, Any]:
    files = dict(zip(("16-bit", "4-bit"), (model, *smaller(model)), strict=False))
    is_for_cpu = model.text.family in CPU_TEXT_MODELS
    return {
        "name": short_name(model),
        "repositories": [f"OpenGVLab/{name}" for name in repositories(model)],
        "num_parameters": num_parameters(model),
        "weight_bytes": {name: file_bytes(one) for name, one in files.items()},
        "context": model.text.max_position_embeddings,
        "licence": licence(model),
        "min_gpu_gb": {name: dict(_smallest_gpus(one)) for name, one in files.items()},
        "estimated_cpu_bytes": {
            dtype: cpu_bytes(model, dtype) for dtype in _CPU_TYPES if is_for_cpu
        },
        "here": _here(model, machine, is_for_cpu=is_for_cpu),
    }


def _deployment(model: CheckpointConfig) -> Deployment:
    """As the server runs the model without further settings."""
    most: int = EngineSettings.model_fields["max_num_seqs"].default
    return Deployment(context=model.text.max_position_embeddings, max_num_seqs=most)


def _smallest_gpus(model: CheckpointConfig) -> Iterator[tuple[int, int]]:
    """For each `tp`, the memory of the smallest GPUs in whole GB."""
    for tp in valid_tps(model):
        deployment = replace(_deployment(model), tp=tp)
        low, high = 0, _LARGEST_GPU_GB  # too small, large enough
        while high - low > 1:
            size = (low + high) // 2
            if fitting_plan(model, deployment, GpuSet("", tp, size * _GB)):
                high = size
            else:
                low = size
        if high < _LARGEST_GPU_GB:
            yield tp, high


def _here(model: CheckpointConfig, machine: Machine, *, is_for_cpu: bool) -> str:
    """How the model fits this machine, or "no"."""
    if not machine.gpus:
        dtype = is_for_cpu and cpu_type_that_fits(model, machine.memory_bytes or 0)
        return f"CPU, {dtype}" if dtype else "no"
    for one in (model, *smaller(model)):
        if plan := best_plan(one, _deployment(one), GpuSet.of(machine.gpus)):
            kind = "" if one is model else "4-bit, "
            return f"{kind}tp {plan.deployment.tp}, {plan.num_tokens // 1000:,} k tokens"
    return "no"


def render_catalogue(facts: Sequence[dict[str, Any]], machine: Machine) -> str:
    """The table for a terminal, with one line per model."""
    head = (
        "name",
        "params",
        "16-bit",
        "4-bit",
        "context",
        "GPUs",
        "here",
        "licence",
        "repositories",
    )
    rows = [head, *map(_row, facts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([f"This machine: {machine}", "", *lines, "", _NOTES])


def _row(fact: dict[str, Any]) -> tuple[str, ...]:
    weights, gpus = fact["weight_bytes"], fact["min_gpu_gb"]["16-bit"]
    names = (name.removeprefix("OpenGVLab/") for name in fact["repositories"])
    return (
        fact["name"],
        f"{fact['num_parameters'] / 1e9:.2f} B",
        f"{weights['16-bit'] / GIB:.1f}",
        f"{weights['4-bit'] / GIB:.1f}" if "4-bit" in weights else "-",
        f"{fact['context']:,}",
        " ".join(f"{tp}x{size}" for tp, size in gpus.items()),
        fact["here"],
        fact["licence"],
        ", ".join(name for name in names if not name.endswith("-AWQ")),
    )
