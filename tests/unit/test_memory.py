"""Memory is given back to the system when the server has nothing to do."""

import asyncio
import ctypes

import pytest
from internvl_server.serve import memory
from internvl_server.serve.memory import IdleTrim


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

    trim = IdleTrim(count)
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_the_functions_of_the_c_library_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(memory, "_call", lambda name, *given: called.append((name, *given)))
    memory.return_large_blocks()
    IdleTrim()._trim()
    assert called == [("mallopt", -3, 1 << 20), ("malloc_trim", 0)]
    assert all(hasattr(ctypes.CDLL(None), name) for name, *_ in called)
