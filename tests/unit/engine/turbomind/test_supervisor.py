"""Which silence of an engine ends the process. No LMDeploy."""

import asyncio
import itertools
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.engine.stream import Stream
from internvl_server.engine.turbomind import supervisor as module
from internvl_server.engine.turbomind.requests.jobs import JobPool, Work
from internvl_server.engine.turbomind.supervisor import Supervisor

REQUEST = GenerateRequest("r", (1,), 4, SamplingParams(), frozenset({9}))


class Clock:
    """A clock that goes on by `step_s` whenever it is read."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = time.monotonic(), step_s

    def monotonic(self) -> float:
        self.now += self.step_s
        return self.now


class SilentHandle:
    """Never has any news, except the end after `cancel`, unless it is stuck."""

    is_reusable = True
    is_slow = has_ended = False

    def __init__(self, *, is_stuck: bool = False) -> None:
        self._is_stuck = is_stuck

    def start(self, request, images, grammar, signal):
        self.end = signal
        return self

    def read(self):
        self.has_ended = True

    def cancel(self):
        if not self._is_stuck:
            self.end()


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def metrics(tick: int) -> Any:
    return SimpleNamespace(tick=tick)


def pool_of(new_handle: Any) -> JobPool:
    return JobPool(1, new_handle)


@pytest.mark.parametrize(("step_s", "ends"), [(2.0, True), (600.0, False)])
async def test_a_suspended_process_does_not_end(monkeypatch, step_s, ends):
    """The clock goes on while a process is suspended; a check comes every second otherwise."""
    clock, ended = Clock(step_s), threading.Event()
    monkeypatch.setattr(module, "_SAMPLE_S", 0.001)
    monkeypatch.setattr(module, "end_process", ended.set)
    monkeypatch.setattr("internvl_server.engine.turbomind.supervisor.time", clock)
    monkeypatch.setattr("internvl_server.engine.turbomind.requests.jobs.time", clock)
    pool = JobPool(1, SilentHandle)

    async def enter(stream):
        job = pool.submit(stream, Work(REQUEST, None, None))
        return lambda: pool.abort(job)

    async with Stream(enter):
        supervisor = Supervisor(pool, lambda: None, exit_after_s=100 if ends else 1000)
        for _ in range(200):
            await asyncio.sleep(0.001)
        await until(lambda: ended.is_set() == ends)
        await supervisor.stop(1)


async def test_metrics_that_cannot_be_read_once_are_read_again(monkeypatch, caplog):
    """Otherwise a server that streams little would later count as hung."""
    monkeypatch.setattr(module, "_SAMPLE_S", 0.001)
    pool, failures = JobPool(1, SilentHandle), [RuntimeError("busy"), RuntimeError("busy")]

    def read():
        if failures:
            raise failures.pop()
        return metrics(7)

    supervisor = Supervisor(pool, read, exit_after_s=0)
    await until(lambda: supervisor.metrics == metrics(7))
    assert await supervisor.stop(1)
    assert [record.message for record in caplog.records] == [
        "TurboMind does not report its progress; only its tokens show it"
    ]


async def test_a_request_that_never_ends_after_its_cancellation_is_reported(monkeypatch, caplog):
    """It keeps a slot, while the scheduler's ticks say that all is well."""
    monkeypatch.setattr(module, "_SAMPLE_S", 0.001)
    monkeypatch.setattr("internvl_server.engine.turbomind.requests.jobs._CONFIRM_S", 0.02)
    handle, ended = SilentHandle(is_stuck=True), threading.Event()
    pool = pool_of(lambda: handle)
    monkeypatch.setattr(module, "end_process", ended.set)
    ticks = itertools.count()
    supervisor = Supervisor(pool, lambda: metrics(next(ticks)), exit_after_s=0.1)

    async def enter(stream):
        job = pool.submit(stream, Work(REQUEST, None, None))
        return lambda: pool.abort(job)

    try:
        async with Stream(enter):
            await asyncio.sleep(0.05)
            assert pool.num_unconfirmed == 0, "nobody has cancelled it"
        await until(lambda: ended.is_set() and "request r" in caplog.text)  # no slot is left
        assert (pool.num_running, pool.num_unconfirmed) == (1, 1)
        reports = [record.message for record in caplog.records if "request r" in record.message]
        assert reports == [
            "TurboMind has not ended request r, cancelled 0.02 s ago: its slot stays in use"
        ]
        assert not await pool.close(0.01)
        assert "TurboMind has not ended 1 request(s): ['r']" in caplog.text
        await supervisor.stop(1)
    finally:
        handle.end()  # otherwise a failed test would wait for it
    await until(lambda: pool.num_running == 0)
