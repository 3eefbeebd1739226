"""Many requests: none is lost, mixed up or forgotten in the native engine, however it ends."""

import asyncio
import contextlib
import gc
import random
import weakref

import pytest
from internvl_server.errors import EngineError, EngineUnavailableError

from tests.lmdeploy.native import Plan
from tests.lmdeploy.requests import END, answer, make_request, until


def expected_answer(prompt):
    """An answer that only this prompt has."""
    return [(prompt[0] * 7 + place * 3 + prompt[-1]) % 256 for place in range(prompt[1])]


async def test_a_thousand_aborts_leave_no_handle_checked_out(make_engine, loop):
    engine = await make_engine(max_num_seqs=8)
    loop.plan = lambda call: Plan([65], None)
    rng = random.Random(1)

    async def leave(number):
        async with engine.generate(make_request(name=str(number))) as deltas:
            match number % 4:
                case 0:
                    return  # at once
                case 1:
                    await anext(deltas)
                case 2:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(rng.random() * 0.05):
                            while True:
                                await anext(deltas)
                case 3:
                    task = asyncio.ensure_future(anext(deltas))
                    await asyncio.sleep(rng.random() * 0.01)
                    task.cancel()

    async def cancelled(number):
        task = asyncio.ensure_future(leave(number))
        if number % 3 == 0:
            await asyncio.sleep(rng.random() * 0.02)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for start in range(0, 1000, 100):
        await asyncio.gather(*map(cancelled, range(start, start + 100)))
    await until(lambda: engine._jobs.num_running == 0 and engine._jobs.num_waiting == 0)
    assert engine._jobs.num_free == 8
    assert loop.num_active == 0
    assert loop.max_active == 8
    # Those of case 1 whose task is not cancelled; the others may have left before they had a handle.
    assert loop.num_cancelled >= sum(n % 4 == 1 and n % 3 != 0 for n in range(1000))
    loop.plan = lambda call: Plan([65, END])
    answers = await asyncio.gather(*(answer(engine, make_request()) for _ in range(16)))
    assert answers == [([65, END], "stop")] * 16


async def test_64_streams_lose_and_mix_up_nothing(make_engine, loop):
    engine = await make_engine(max_num_seqs=16)
    rng = random.Random(2)
    failing = {n for n in range(640) if n % 10 == 3}

    def plan(call):
        ids = expected_answer(call.input_ids)
        number = call.input_ids[2] * 256 + call.input_ids[3]
        if number in failing:
            return Plan(ids[: len(ids) // 2], 5)
        return Plan([*ids, END], tokens_per_step=rng.randint(1, 4), wait_steps=rng.randint(0, 3))

    loop.plan = plan

    async def one(number):
        prompt = (number % 251, 5 + number % 40, number // 256, number % 256, number % 7)
        received, whole = [], [*expected_answer(prompt), END]
        aborts_at = rng.randint(1, 30) if number % 10 == 6 else 10**9
        try:
            async with engine.generate(
                make_request(prompt, max_tokens=64, name=str(number))
            ) as deltas:
                async for delta in deltas:
                    received += delta.token_ids
                    if len(received) >= aborts_at:
                        break
                    if number % 10 == 8:
                        await asyncio.sleep(0.002)  # a slow reader
        except EngineError:
            assert number in failing
            assert received == whole[: len(received)]
            return "failed"
        assert number not in failing
        assert received == whole[: len(received)]
        if len(received) < len(whole):
            assert aborts_at < 10**9
            return "aborted"
        return "finished"

    ends = []
    for start in range(0, 640, 64):
        ends += await asyncio.gather(*map(one, range(start, start + 64)))
    assert ends.count("failed") == 64
    assert ends.count("finished") >= 512
    await until(lambda: engine._jobs.num_running == 0)
    assert engine._jobs.num_free == 16
    assert loop.num_active == 0


async def test_waiting_requests_run_in_order(make_engine, loop):
    engine = await make_engine(max_num_seqs=1)
    loop.plan = lambda call: Plan([65, END], wait_steps=3)
    tasks = []
    for number in range(12):
        tasks.append(asyncio.ensure_future(answer(engine, make_request((number,)))))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert [call.input_ids[0] for call in loop.calls] == list(range(12))


async def test_leaving_while_waiting_costs_the_engine_nothing(make_engine, loop):
    engine = await make_engine(max_num_seqs=1)
    loop.plan = lambda call: Plan([65], None)
    async with engine.generate(make_request((1,))) as first:
        await anext(first)
        async with engine.generate(make_request((2,))):
            await until(lambda: engine.health().num_waiting == 1)
    await until(lambda: engine._jobs.num_free == 1)
    assert [call.input_ids for call in loop.calls] == [[1]]
    assert loop.num_cancelled == 1


async def test_closing_ends_running_and_waiting_requests(make_engine, loop):
    engine = await make_engine(max_num_seqs=1)
    loop.plan = lambda call: Plan([65], None)
    async with (
        engine.generate(make_request((1,))) as running,
        engine.generate(make_request((2,))) as waiting,
    ):
        await anext(running)
        await engine.close()
        with pytest.raises(EngineError):
            await anext(running)
        with pytest.raises(EngineUnavailableError):
            await anext(waiting)
    assert loop.num_active == 0


async def test_the_model_is_freed_after_the_last_native_request(make_engine, loop, monkeypatch):
    """TurboMind ends with the last reference to it, and its requests must not outlive it."""
    create, made = loop.create_request, []
    kept: list[int] = []

    def create_request():
        request = create()
        made.append(weakref.ref(request))
        return request

    monkeypatch.setattr(loop, "create_request", create_request)
    engine = await make_engine(max_num_seqs=2)
    await answer(engine, make_request(tiles=(1,), num_logprobs=1))
    loop.plan = lambda call: Plan([65], None)
    turbomind = engine._runtime._turbomind

    def close():
        gc.collect()
        kept.extend(number for number, request in enumerate(made) if request() is not None)
        type(turbomind).close(turbomind)

    monkeypatch.setattr(turbomind, "close", close)
    async with engine.generate(make_request()) as deltas:
        await anext(deltas)
        await engine.close()
    assert len(made) > 2
    assert kept == []
    assert turbomind.model_comm is None


async def test_one_broken_request_spares_the_others(make_engine, loop):
    engine = await make_engine(max_num_seqs=2)

    def plan(call):
        if call.input_ids == [13]:
            raise RuntimeError("the native side threw")
        return Plan([65] * 20 + [END])

    loop.plan = plan
    good, bad = await asyncio.gather(
        answer(engine, make_request((1,), max_tokens=64)),
        answer(engine, make_request((13,))),
        return_exceptions=True,
    )
    assert good == ([65] * 20 + [END], "stop")
    assert type(bad) is EngineError
    assert engine._jobs.num_free == 2
