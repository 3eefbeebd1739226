"""How much of the memory that this process's control group may have is in use.

Beyond the limit the kernel ends processes. Files that it keeps in memory and can drop, such as mapped
weights, do not count.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MemoryGuard", "available_bytes"]

_CHECK_S = 0.25
# Version 1 has this for "no limit", rounded to pages.
_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group with a limit: its directory, and the names of version 1 or 2 in it."""

    directory: Path
    limit: int
    usage: str
    files: tuple[str, ...]

    def used(self) -> float:
        """The part of the limit that is in use.

        Raises:
            OSError, ValueError: The group is gone, or the files are not what they should be.
        """
        stat = _read_table(self.directory / "memory.stat")
        droppable = sum(stat.get(name, 0) for name in self.files)
        return (int((self.directory / self.usage).read_text()) - droppable) / self.limit


class MemoryGuard:
    """Reads the usage at most four times a second.

    Args:
        root: Where control groups are mounted.
        membership: The file that names this process's groups.
    """

    def __init__(
        self,
        root: Path = Path("/sys/fs/cgroup"),
        membership: Path = Path("/proc/self/cgroup"),
    ) -> None:
        self._groups = _limited_groups(root, membership)
        self._checked_at = -_CHECK_S
        self._usage = 0.0

    def usage(self) -> float:
        """The part of the memory limit that is in use; 0 where there is no limit."""
        if not self._groups:
            return 0.0
        now = time.monotonic()
        if now - self._checked_at >= _CHECK_S:
            self._checked_at = now
            try:
                self._usage = max(group.used() for group in self._groups)
            except (OSError, ValueError):
                self._usage = 0.0
        return self._usage


def available_bytes(
    root: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    meminfo: Path = Path("/proc/meminfo"),
) -> int | None:
    """Bytes that this process can still take: what the machine has, within the limits of its groups.

    Returns:
        None where the system does not say.
    """
    try:
        available = int(meminfo.read_text().partition("MemAvailable:")[2].split()[0]) * 1024
        free = [
            int(group.limit * (1 - group.used())) for group in _limited_groups(root, membership)
        ]
    except (OSError, ValueError, IndexError):
        return None
    return max(0, min([available, *free]))


def _limited_groups(root: Path, membership: Path) -> list[_Group]:
    """The groups of this process that have a limit; a limit of a parent counts for its children."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    groups: list[_Group] = []
    for line in lines:
        controllers, path = line.split(":", 2)[1:]
        if not controllers:
            groups += _groups_of(
                root, path, "memory.max", "memory.current", ("inactive_file", "active_file")
            )
        elif "memory" in controllers.split(","):
            groups += _groups_of(
                root / "memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ("total_inactive_file", "total_active_file"),
            )
    return groups


def _groups_of(
    root: Path, path: str, limit_name: str, usage: str, files: tuple[str, ...]
) -> list[_Group]:
    groups = []
    directory = root / path.lstrip("/")
    # In a container the path may be that on the host, and only the mounted group exists.
    for place in dict.fromkeys((directory, *directory.parents)):
        if not place.is_relative_to(root):
            break
        try:
            limit = int((place / limit_name).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if limit < _UNLIMITED:
            groups.append(_Group(place, limit, usage, files))
    return groups


def _read_table(path: Path) -> Mapping[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number in rows}
