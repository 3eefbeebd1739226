"""Loops whose server is a function: how late it answers changes nothing in when requests are sent."""

import asyncio
import itertools
import os
import signal
import time
from types import SimpleNamespace

import pytest
from internvl_server.bench.datasets.base import Prompt
from internvl_server.bench.measures import Outcome, Record
from internvl_server.bench.runner import Load, run_load

PROMPTS = [Prompt(str(number)) for number in range(20)]


class FakeServer:
    """Answers after a delay; counts what is in flight."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s, self.now, self.most = delay_s, 0, 0
        self.texts: list[str] = []

    async def __call__(self, prompt: Prompt, record: Record) -> None:
        self.texts.append(prompt.text)
        record.sent_s = time.perf_counter()
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.now -= 1
        record.ended_s = time.perf_counter()
        record.outcome = Outcome.COMPLETED


async def test_the_schedule_of_an_open_loop_does_not_depend_on_the_server() -> None:
    load = Load(rate=200, seed=1)
    runs = [await run_load(FakeServer(delay), PROMPTS, load) for delay in (0.0, 0.5)]
    due = [[r.intended_s - run.started_s for r in run.records] for run in runs]
    assert due[0] == pytest.approx(due[1])


async def test_a_slow_server_gets_all_requests_of_an_open_loop_at_once() -> None:
    num_waiting, are_all_there = 0, asyncio.Event()

    async def send(_: Prompt, record: Record) -> None:
        nonlocal num_waiting
        record.sent_s = time.perf_counter()
        num_waiting += 1
        if num_waiting == len(PROMPTS):
            are_all_there.set()
        async with asyncio.timeout(60):
            await are_all_there.wait()

    await run_load(send, PROMPTS, Load(rate=1000))
    assert are_all_there.is_set()


async def test_waiting_for_a_place_is_part_of_the_latency() -> None:
    server = FakeServer(0.02)
    run = await run_load(server, PROMPTS, Load(rate=10_000, max_concurrency=1))
    assert server.most == 1
    last = run.records[-1]
    waited = last.latency_s("client_queue_time")
    assert waited is not None
    assert waited >= 19 * 0.02
    assert last.latency_s("e2el") == pytest.approx(waited + (last.ended_s - last.sent_s))


async def test_a_closed_loop_has_so_many_clients() -> None:
    server = FakeServer(0.01)
    run = await run_load(server, PROMPTS, Load(max_concurrency=3))
    assert server.most == 3
    assert sorted(map(int, server.texts)) == list(range(20))
    assert {record.latency_s("client_queue_time") for record in run.records} == {0}


async def test_a_duration_ends_an_open_loop() -> None:
    run = await run_load(FakeServer(0), PROMPTS, Load(rate=100, duration_s=0.1))
    due = [record.intended_s - run.started_s for record in run.records]
    assert 0 < len(due) < len(PROMPTS)
    assert max(due) <= 0.1


async def test_a_closed_loop_with_a_duration_repeats_its_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 100)
    monkeypatch.setattr("internvl_server.bench.runner.time", clock)
    server = FakeServer(0.001)
    await run_load(server, PROMPTS[:2], Load(max_concurrency=2, duration_s=0.2))
    assert len(server.texts) > 2
    assert set(server.texts) == {"0", "1"}


async def test_a_signal_keeps_what_has_been_answered() -> None:
    has_answered = asyncio.Event()

    async def send(prompt: Prompt, record: Record) -> None:
        if prompt.text == "1":
            await has_answered.wait()
            os.kill(os.getpid(), signal.SIGINT)
        await FakeServer(0 if prompt.text == "0" else 60)(prompt, record)
        has_answered.set()

    run = await run_load(send, PROMPTS, Load(rate=100))
    assert run.is_interrupted
    outcomes = [record.outcome for record in run.records]
    assert outcomes[0] == Outcome.COMPLETED
    assert set(outcomes[1:]) == {Outcome.ABORTED}


async def test_a_busy_client_is_noticed() -> None:
    async def send(prompt: Prompt, record: Record) -> None:
        record.sent_s = record.ended_s = time.perf_counter()
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    run = await run_load(send, PROMPTS[:10], Load(rate=1000))
    # The share itself is small where other processes take the cores.
    assert run.strain["client_cpu_share"] * run.duration_s > 0.4
    assert run.strain["client_loop_lag_max_ms"] >= 20
