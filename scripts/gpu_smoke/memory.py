"""The most memory a GPU has used meanwhile, beside what the plan counts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from internvl_server.engine.turbomind.machine.driver import read_gpu
from internvl_server.planner.gpus import gib
from internvl_server.planner.memory import MemoryPlan

from scripts.gpu_smoke.results import NotRunError, must

__all__ = ["Peak", "watched"]

_SAMPLE_S = 0.2
# The plan counts no fragments of what it knows exactly.
_TOLERANCE = 1.02


@dataclass
class Peak:
    """Bytes used on the first GPU, of which `before` were used by others."""

    before: int | None = None
    most: int = 0

    async def beside(self, plan: MemoryPlan) -> str:
        """Fails if more was used than the plan counts."""
        if self.before is None:
            raise NotRunError("the driver does not report used memory")
        used = self.most - self.before
        parts = {
            "weights": plan.weight_bytes, "cache": plan.cache_bytes, "overhead": plan.overhead_bytes,
            "work": plan.working_bytes,
        }  # fmt: skip
        listed = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
        figures = f"peak {gib(used)}, plan {gib(sum(parts.values()))} ({listed})"
        must(used <= _TOLERANCE * sum(parts.values()), figures)
        return figures


@contextmanager
def watched() -> Iterator[Peak]:
    """Sample the first GPU's memory on a thread while the context lasts."""
    peak, is_over = Peak(_used()), threading.Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_S):
            peak.most = max(peak.most, _used() or 0)

    peak.most = peak.before or 0
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()


def _used() -> int | None:
    gpu = read_gpu(0)
    return None if gpu is None else gpu.memory.total_bytes - gpu.memory.free_bytes
