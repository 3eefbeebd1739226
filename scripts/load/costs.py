"""What a process has used so far, by /proc: CPU of its main thread and of all, with its children; memory."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "cost_of", "descendants", "held_bytes", "memory_bytes"]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU: of the main thread, which runs the event loop, and of the process with its children."""

    loop_s: float = 0.0
    total_s: float = 0.0

    def __sub__(self, earlier: "Cost") -> "Cost":
        return Cost(self.loop_s - earlier.loop_s, self.total_s - earlier.total_s)


def cost_of(pid: int) -> Cost:
    """What a process and its living children have used since they started."""
    loop_ns = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
    return Cost(loop_ns / 1e9, sum(map(_cpu_s, [pid, *descendants(pid)])))


def memory_bytes(pid: int) -> int:
    """Resident memory of a process and its children, shared pages counted once a process."""
    pages = 0
    for process in [pid, *descendants(pid)]:
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except FileNotFoundError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def held_bytes(pid: int) -> int:
    """Memory of a process and its children that the system cannot take back: without pages of files."""
    kib = 0
    for process in [pid, *descendants(pid)]:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except FileNotFoundError:
            continue
        kib += sum(map(int, re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status)))
    return kib << 10


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def descendants(pid: int) -> list[int]:
    """Its living children, and theirs."""
    found, parents = [], [pid]
    while parents:
        for task in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            try:
                children = [int(child) for child in task.read_text().split()]
            except FileNotFoundError:
                continue
            found += children
            parents += children
    return found
