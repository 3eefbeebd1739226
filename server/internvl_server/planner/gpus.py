"""GPUs: as the driver reports them, and as `plan --gpus` names them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["GIB", "GpuMemory", "GpuSet", "gib", "parse_gpus"]

GIB = 1 << 30
_GB = 10**9  # the unit on a card's label; slightly less than most drivers make available


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of one GPU: all of it, and what no process uses now."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class GpuSet:
    """`count` equal GPUs of one machine with `num_bytes` of usable memory each."""

    label: str
    count: int
    num_bytes: int
    total_bytes: int = 0

    @staticmethod
    def of(gpus: Sequence[GpuMemory]) -> "GpuSet":
        """From the memory of each GPU; the least free one counts, because all get equal shares."""
        least = min(gpus, key=lambda gpu: gpu.free_bytes, default=GpuMemory(0, 0))
        label = f"{len(gpus)}x{least.free_bytes / _GB:.0f}"
        return GpuSet(label, len(gpus), least.free_bytes, least.total_bytes)

    def __str__(self) -> str:
        """The memory of one GPU, for messages."""
        size = gib(max(self.num_bytes, self.total_bytes))
        return f"{size}, of which {gib(self.num_bytes)} are free" if self.total_bytes else size


def parse_gpus(text: str) -> list[GpuSet]:
    """Parse a list of GPU sets such as `1x24,2x80`.

    Raises:
        ValueError: It has another form.
    """
    sets = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,2})\s*[xX×]\s*([1-9]\d{0,3})\s*", item)
        if match is None:
            raise ValueError(
                f"--gpus: {item.strip()!r} is not COUNTxGB. Write for example 1x24,2x80."
            )
        count, size = int(match[1]), int(match[2])
        sets.append(GpuSet(f"{count}x{size}", count, size * _GB))
    return sets


def gib(size: int) -> str:
    """A size in bytes as text."""
    return f"{size / GIB:.1f} GiB"
