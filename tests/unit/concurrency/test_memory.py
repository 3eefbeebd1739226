"""The memory that cannot be dropped, of the control groups of both versions."""

from pathlib import Path

import pytest
from internvl_server.concurrency.memory import MemoryGuard, available_bytes


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text + "\n")


def guard(tmp_path: Path, membership: str) -> MemoryGuard:
    (tmp_path / "membership").write_text(f"{membership}\n" if membership else "")
    return MemoryGuard(tmp_path / "cgroup", tmp_path / "membership")


def test_version_2(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "slice" / "server"
    stat = "anon 700\ninactive_file 150\nactive_file 50\nshmem 30"
    write(group, memory__max="1000", memory__current="900", memory__stat=stat)
    assert guard(tmp_path, "0::/slice/server").usage() == pytest.approx(0.7)
    assert guard(tmp_path, "0::/slice/server/inner").usage() == pytest.approx(0.7)
    assert guard(tmp_path, "0::/slice").usage() == 0


def test_the_fullest_of_nested_groups_counts(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    write(root / "a", memory__max="1000", memory__current="900", memory__stat="anon 1")
    write(root / "a/b", memory__max="500", memory__current="100", memory__stat="anon 1")
    assert guard(tmp_path, "0::/a/b").usage() == pytest.approx(0.9)


def test_version_1(tmp_path: Path) -> None:
    write(
        tmp_path / "cgroup" / "memory" / "server",
        memory__limit_in_bytes="2000",
        memory__usage_in_bytes="1500",
        memory__stat="total_inactive_file 400\ntotal_active_file 100\ninactive_file 1",
    )
    assert guard(tmp_path, "4:memory:/server\n1:cpu:/\n0::/").usage() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("membership", "limit"), [("0::/server", "max"), ("0::/other", "1000"), ("", "1000")]
)
def test_no_limit(tmp_path: Path, membership: str, limit: str) -> None:
    group = tmp_path / "cgroup" / "server"
    write(group, memory__max=limit, memory__current="900", memory__stat="anon 1")
    assert guard(tmp_path, membership).usage() == 0


def test_the_usage_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "cgroup"
    write(group, memory__max="1000", memory__current="900", memory__stat="anon 1")
    monkeypatch.setattr("internvl_server.concurrency.memory._CHECK_S", 0.0)
    watched = guard(tmp_path, "0::/")
    assert watched.usage() == pytest.approx(0.9)
    write(group, memory__current="500")
    assert watched.usage() == pytest.approx(0.5)
    (group / "memory.current").unlink()
    assert watched.usage() == 0


@pytest.mark.parametrize(
    ("limit", "left"), [("1000000", 600_000), ("max", 4096 * 1024), ("9000000", 4096 * 1024)]
)
def test_what_can_still_be_taken(tmp_path: Path, limit: str, left: int) -> None:
    group = tmp_path / "cgroup"
    write(group, memory__max=limit, memory__current="500000", memory__stat="active_file 100000")
    write(tmp_path, membership="0::/", meminfo="MemTotal: 8192 kB\nMemAvailable: 4096 kB")
    paths = group, tmp_path / "membership", tmp_path / "meminfo"
    assert available_bytes(*paths) == left


def test_a_system_that_does_not_say_what_is_available(tmp_path: Path) -> None:
    assert available_bytes(tmp_path, tmp_path / "membership", tmp_path / "meminfo") is None
    write(tmp_path, meminfo="MemTotal: 8192 kB")
    assert available_bytes(tmp_path, tmp_path / "membership", tmp_path / "meminfo") is None
