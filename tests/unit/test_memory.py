"""Memory is given back to the system when the server has nothing to do."""

import ctypes
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from internvl_server.serve import memory
from internvl_server.serve.memory import Trim


class Clock:
    """The clock and the thread of a `Trim`: what it begins is done at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: self.now))
        loop = SimpleNamespace(run_in_executor=lambda _, work: work())
        monkeypatch.setattr("asyncio.get_running_loop", lambda: loop)

    def tick(self, trim: Trim, num_requests: int, num_in_flight: int) -> None:
        for _ in range(10):
            trim.tick(num_requests, num_in_flight)
            self.now += 0.1


def test_it_trims_once_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(memory, "_IDLE_S", 0.5)
    num_trims = 0

    def count() -> None:
        nonlocal num_trims
        num_trims += 1

    released: list[float] = []

    def release(unused_s: float) -> None:
        assert num_trims == len(released) + 1  # after the collector has freed what it can
        released.append(unused_s)

    trim = Trim(release, count)
    clock.tick(trim, 0, 0)
    assert num_trims == 0
    clock.tick(trim, 1, 1)
    assert num_trims == 0
    clock.tick(trim, 1, 0)
    clock.tick(trim, 1, 0)
    assert num_trims == 1
    clock.tick(trim, 2, 0)  # one that came and went between two calls
    assert num_trims == 2
    assert released == [0, 0]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_the_functions_of_the_c_library_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(memory, "_call", lambda name, *given: called.append((name, *given)))
    memory.limit_arenas()
    memory.return_large_blocks()
    Trim(float)._trim()
    assert called == [("mallopt", -8, 2), ("mallopt", -3, 1 << 20), ("malloc_trim", 0)]
    assert all(hasattr(ctypes.CDLL(None), name) for name, *_ in called)


THREADS = """
import ctypes, sys, threading
from internvl_server.serve.memory import limit_arenas
if sys.argv[1] == "limited":
    limit_arenas()
barrier = threading.Barrier(6)
def allocate():
    barrier.wait()
    bytearray(1000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="needs glibc")
def test_threads_share_two_heaps(tmp_path: Path) -> None:
    def num_heaps(how: str) -> int:
        subprocess.run([sys.executable, "-c", THREADS, how, str(tmp_path / how)], check=True)
        return (tmp_path / how).read_text().count("<heap nr=")

    assert num_heaps("limited") <= 2 < num_heaps("unlimited")


def test_it_trims_under_load_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(memory, "_CHECK_S", 0.45)
    called: list[str] = []
    released: list[float] = []
    trim = Trim(released.append, lambda: called.append("idle"), lambda: called.append("load"))
    clock.tick(trim, 1, 1)
    assert called == ["load"]
    assert released == [0.45]  # only what has not been used since the last time


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_what_is_free_but_kept_is_returned_if_it_is_much() -> None:
    blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]
    kept = blocks[::100]  # so that the heap cannot shrink from its end
    before = resident_bytes()
    del blocks
    memory._trim_if_much()
    assert before - resident_bytes() > 50 << 20
    assert len(kept) == 10
