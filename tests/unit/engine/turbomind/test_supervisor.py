"""Which silence of an engine ends the process. No LMDeploy."""

import asyncio
import threading
import time

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
    """Has no news but the end after it was cancelled."""

    is_reusable = True
    is_slow = has_ended = False

    def start(self, request, images, grammar, signal):
        self._signal = signal
        return self

    def cancel(self):
        self._signal()

    def read(self):
        self.has_ended = True


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
        assert ended.is_set() == ends
        await supervisor.stop(1)
