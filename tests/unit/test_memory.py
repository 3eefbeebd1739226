"""Memory is given back to the system when the server has nothing to do."""

import asyncio
import ctypes
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from internvl_server.serve import memory
from internvl_server.serve.memory import Trim


async def test_it_trims_once_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_IDLE_S", 0.05)
    num_trims = 0

    def count() -> None:
        nonlocal num_trims
        num_trims += 1

    async def quiet(num_requests: int) -> None:
        for _ in range(10):
            trim.tick(num_requests, 0)
            await asyncio.sleep(0.01)

    released: list[float] = []

    def release(unused_s: float) -> None:
        assert num_trims == len(released) + 1  # after the collector has freed what it can
        released.append(unused_s)

    trim = Trim(release, count)
    await quiet(0)
    assert num_trims == 0
    for _ in range(10):
        trim.tick(1, 1)
        await asyncio.sleep(0.01)
    assert num_trims == 0
    await quiet(1)
    await quiet(1)
    assert num_trims == 1
    await quiet(2)  # one that came and went between two calls
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


async def test_it_trims_under_load_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CHECK_S", 0.05)
    called: list[str] = []
    released: list[float] = []
    trim = Trim(released.append, lambda: called.append("idle"), lambda: called.append("load"))
    for _ in range(20):
        trim.tick(1, 1)
        await asyncio.sleep(0.01)
    assert 1 <= len(called) <= 4
    assert set(called) == {"load"}
    assert set(released) == {0.05}  # only what has not been used since the last time


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
