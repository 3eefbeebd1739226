"""The echo engine: what it answers, counts, and how it misbehaves when asked to."""

import asyncio

import pytest
from internvl_server.core import GenerateRequest, ImageSpan, SamplingParams, TokenLogprobs
from internvl_server.engine.base import Capability
from internvl_server.engine.echo.engine import EchoEngine
from internvl_server.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
)
from internvl_server.settings import EchoSettings

END = 99


def make_request(token_ids=(1, 2, 3), *, max_tokens=10, stop=(END,), images=(), **sampling):
    return GenerateRequest(
        "r",
        tuple(token_ids),
        max_tokens,
        SamplingParams(**sampling),
        frozenset(stop),
        images=tuple(images),
    )


async def make_engine(max_num_seqs=2, max_model_len=64, skip=(), **settings):
    engine = EchoEngine(
        EchoSettings(**settings),
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
        skip_token_ids=frozenset(skip),
    )
    await engine.start()
    return engine


def hold_tokens(engine):
    """Let the engine make no token until the event is set."""
    may_be_made = asyncio.Event()

    async def pause(_):
        await may_be_made.wait()

    engine._pause = pause
    return may_be_made


async def answer(engine, request):
    token_ids, reason = [], None
    async with engine.generate(request) as deltas:
        async for delta in deltas:
            token_ids += delta.token_ids
            reason = delta.finish_reason
    return token_ids, reason


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (make_request(), ([1, 2, 3, END], "stop")),
        (make_request(max_tokens=4), ([1, 2, 3, END], "stop")),
        (make_request(max_tokens=3), ([1, 2, 3], "length")),
        (make_request(max_tokens=1), ([1], "length")),
        (make_request([END, 1, END]), ([1, END], "stop")),
        (make_request(stop=()), ([1, 2, 3], "stop")),
        (make_request([1, 7, 7, 2, 8], images=[ImageSpan(1, 1, 2)]), ([1, 2, 8, END], "stop")),
        (make_request([50, 1, 51, 2]), ([1, 2, END], "stop")),
        (make_request(logit_bias=((2, -100.0), (3, 99.0))), ([1, 3, END], "stop")),
        (make_request(stop=(END, 98), logit_bias=((98, -100.0),)), ([1, 2, 3, END], "stop")),
        (make_request(min_tokens=5), ([1, 2, 3, 1, 2, END], "stop")),
        (make_request([END], min_tokens=2), ([0, 0, END], "stop")),
        (make_request(min_tokens=5, max_tokens=4), ([1, 2, 3, 1], "length")),
    ],
)
async def test_answers_with_the_text_of_the_prompt(request_, expected):
    engine = await make_engine(skip=(50, 51))
    assert await answer(engine, request_) == expected
    assert (engine.num_started, engine.num_finished, engine.num_aborted) == (1, 1, 0)


@pytest.mark.parametrize(
    ("num_logprobs", "tops"),
    [(0, ()), (1, ((2, 0.0),)), (4, ((2, 0.0), (0, -100.0), (1, -200.0), (3, -300.0)))],
)
async def test_log_probabilities(num_logprobs, tops):
    engine = await make_engine()
    async with engine.generate(make_request(num_logprobs=num_logprobs)) as deltas:
        found = [delta.logprobs async for delta in deltas]
    assert [len(logprobs) for logprobs in found] == [1] * 4
    assert found[1] == (TokenLogprobs(0.0, tops),)
    async with engine.generate(make_request()) as deltas:
        assert {delta.logprobs async for delta in deltas} == {None}
    assert Capability.GUIDED_DECODING not in engine.info.capabilities


async def test_the_context_length_cuts_off():
    engine = await make_engine(max_model_len=5)
    assert await answer(engine, make_request()) == ([1, 2], "length")
    with pytest.raises(ContextLengthExceededError):
        await answer(engine, make_request(range(5)))
    with pytest.raises(InvalidRequestError):
        await answer(engine, make_request(max_tokens=0))


async def test_slots_are_given_in_order_and_back_on_leaving():
    engine = await make_engine(max_num_seqs=1)
    may_be_made = hold_tokens(engine)
    order = []

    async def run(name):
        await answer(engine, make_request())
        order.append(name)

    tasks = [asyncio.create_task(run(name)) for name in "abc"]
    while (engine.num_started, engine.num_running) != (3, 1):
        await asyncio.sleep(0)
    health = engine.health()
    assert (health.num_running, health.num_waiting) == (1, 2)
    may_be_made.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]
    assert (engine.num_running, engine.num_waiting) == (0, 0)


async def test_leaving_early_is_an_abort():
    engine = await make_engine(hang_after_tokens=1)
    async with engine.generate(make_request()) as deltas:
        await anext(deltas)
        assert engine.num_running == 1
    assert (engine.num_running, engine.num_aborted, engine.num_finished) == (0, 1, 0)
    async with engine.generate(make_request()):
        assert engine.num_waiting == 1
    assert (engine.num_waiting, engine.num_aborted) == (0, 2)


async def test_cancelled_while_waiting_for_a_slot():
    engine = await make_engine(max_num_seqs=1, hang_after_tokens=1)
    async with engine.generate(make_request()) as deltas:
        await anext(deltas)
        task = asyncio.create_task(answer(engine, make_request()))
        while not engine.num_waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (engine.num_running, engine.num_waiting, engine.num_aborted) == (0, 0, 2)
    assert await answer(engine, make_request(max_tokens=1)) == ([1], "length")


async def test_fails_after_so_many_tokens():
    engine = await make_engine(fail_after_tokens=2)
    async with engine.generate(make_request()) as deltas:
        assert [(await anext(deltas)).token_ids for _ in range(2)] == [(1,), (2,)]
        with pytest.raises(EngineError):
            await anext(deltas)
    assert (engine.num_failed, engine.num_running) == (1, 0)


async def test_hangs_until_closed():
    engine = await make_engine(hang_after_tokens=1)
    async with engine.generate(make_request()) as deltas:
        await anext(deltas)
        task = asyncio.ensure_future(anext(deltas))
        await asyncio.sleep(0.02)
        assert not task.done()
        await engine.close()
        with pytest.raises(EngineError, match="shut down"):
            await task


async def test_delays():
    loop = asyncio.get_running_loop()
    engine = await make_engine(first_token_delay_s=0.05, token_delay_s=0.01)
    started = loop.time()
    await answer(engine, make_request())
    assert loop.time() - started >= 0.08


async def test_is_ready_between_start_and_close():
    engine = EchoEngine(EchoSettings(), max_num_seqs=1, max_model_len=8)
    assert not engine.health().is_ready
    with pytest.raises(EngineUnavailableError):
        await answer(engine, make_request())
    await engine.start()
    assert engine.health().is_ready
    await engine.close()
    await engine.close()
    assert not engine.health().is_ready
    with pytest.raises(EngineUnavailableError):
        await answer(engine, make_request())
