"""How the CPU engine behaves: batching, order, memory, aborts, failures, seeds."""

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from internvl_server.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    StartupError,
)

from tests.model.cpu_requests import (
    answer,
    make_request,
    read_checkpoint,
    read_tokens,
    running_engine,
)

pytestmark = pytest.mark.model

BYTES_PER_TOKEN = 3 * 2 * 2 * 16 * 4  # layers, keys and values, heads, channels, float32


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return read_checkpoint(tiny_checkpoint)


@pytest.fixture
async def engine(checkpoint):
    async with running_engine(checkpoint, prefill_chunk_tokens=16) as engine:
        yield engine


async def eventually(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.002)


def slow_down(engine) -> None:
    """An answer of hundreds of tokens lasts for seconds then, so that a test that is late still finds it."""
    step = engine._worker._step

    def slow_step():
        time.sleep(0.01)
        step()

    engine._worker._step = slow_step


def mixed_requests(checkpoint):
    """Greedy and sampled, short and long, with and without images."""
    kinds = [
        {"tiles": ()},
        {"tiles": (2,), "temperature": 0.8, "seed_": 1},
        {"tiles": (), "num_text": 150, "temperature": 1.2, "top_k": 20, "seed_": 2},
        {"tiles": (1, 4), "repetition_penalty": 1.3},
    ]
    requests = []
    for number in range(16):
        kind = dict(kinds[number % 4])
        tiles, sampling_seed = kind.pop("tiles"), kind.pop("seed_", None)
        request = make_request(checkpoint, tiles, seed=number, max_tokens=10 + number, **kind)
        object.__setattr__(request.sampling, "seed", sampling_seed)
        requests.append(request)
    return requests


async def test_sixteen_mixed_requests_answer_as_alone(engine, checkpoint):
    requests = mixed_requests(checkpoint)
    together = await asyncio.gather(*(answer(engine, request) for request in requests))
    alone = [await answer(engine, request) for request in requests]
    assert together == alone
    assert [len(ids) for ids, _ in alone] == [request.max_tokens for request in requests]


async def test_prefill_in_pieces_equals_prefill_at_once(engine, checkpoint):
    requests = [make_request(checkpoint, t, num_text=200, seed=9) for t in [(), (3,), (2, 2)]]
    async with running_engine(checkpoint, prefill_chunk_tokens=4096) as at_once:
        for request in requests:
            assert await answer(engine, request) == await answer(at_once, request)


async def test_a_seed_gives_the_same_text_alone_and_in_a_batch(engine, checkpoint):
    def sampled(seed):
        request = make_request(checkpoint, seed=1, max_tokens=30, temperature=1.5)
        object.__setattr__(request.sampling, "seed", seed)
        return request

    alone = [(await answer(engine, sampled(seed)))[0] for seed in (1, 2, -3, 2**70)]
    assert len(set(map(tuple, alone))) == 4
    again = await asyncio.gather(*(answer(engine, sampled(s)) for s in (1, 2, -3, 2**70)))
    assert [ids for ids, _ in again] == alone
    unseeded = await asyncio.gather(*(answer(engine, sampled(None)) for _ in range(2)))
    assert unseeded[0] != unseeded[1]


async def test_finish_reasons(engine, checkpoint):
    ids, reason = await answer(engine, make_request(checkpoint, max_tokens=12))
    assert (len(ids), reason) == (12, "length")
    first = ids.index(ids[7])
    request = make_request(checkpoint, max_tokens=12, stop_token_ids=[ids[7]])
    assert await answer(engine, request) == (ids[: first + 1], "stop")
    request = make_request(checkpoint, max_tokens=first + 1, stop_token_ids=[ids[7]])
    assert (await answer(engine, request))[1] == "stop"


async def test_the_context_length_cuts_an_answer_off(checkpoint):
    async with running_engine(checkpoint, max_model_len=32) as engine:
        ids, reason = await answer(engine, make_request(checkpoint, max_tokens=500))
        assert (len(ids), reason) == (12, "length")
        with pytest.raises(ContextLengthExceededError):
            await answer(engine, make_request(checkpoint, num_text=32))


async def test_the_memory_for_keys_and_values_bounds_the_context(checkpoint):
    async with running_engine(checkpoint, kv_cache_bytes=100 * BYTES_PER_TOKEN) as engine:
        assert engine.info.max_model_len == 100
        with pytest.raises(ContextLengthExceededError):
            async with engine.generate(make_request(checkpoint, num_text=100)):
                pytest.fail("was entered")
        assert len((await answer(engine, make_request(checkpoint, max_tokens=80)))[0]) == 80


async def test_waiting_requests_start_strictly_in_order(checkpoint):
    kv_cache_bytes = 100 * BYTES_PER_TOKEN
    async with running_engine(checkpoint, kv_cache_bytes=kv_cache_bytes) as engine:
        order = []

        async def run(name, max_tokens):
            async with engine.generate(make_request(checkpoint, max_tokens=max_tokens)) as deltas:
                await anext(deltas)
                order.append(name)
                async for _ in deltas:
                    pass

        # "small" would fit beside "first", but "large" came before it.
        names = {"first": 40, "large": 75, "small": 1}
        await asyncio.gather(*(run(name, max_tokens) for name, max_tokens in names.items()))
        assert order == ["first", "large", "small"]


async def test_reserved_memory_never_exceeds_the_bound(checkpoint):
    kv_cache_bytes = 130 * BYTES_PER_TOKEN
    async with running_engine(checkpoint, kv_cache_bytes=kv_cache_bytes) as engine:
        seen = []
        step = engine._worker._step

        def watched_step():
            step()
            seen.append((engine._scheduler.num_kv_tokens, engine._scheduler.num_running))

        engine._worker._step = watched_step
        requests = [make_request(checkpoint, max_tokens=5 + 7 * i, seed=i) for i in range(12)]
        await asyncio.gather(*(answer(engine, request) for request in requests))
    assert max(tokens for tokens, _ in seen) <= 130
    assert max(running for _, running in seen) > 1
    assert seen[-1] == (0, 0)


@pytest.mark.parametrize("tokens_before", [0, 1, 3])
async def test_abort_frees_slot_and_memory(checkpoint, tokens_before):
    async with running_engine(checkpoint, max_num_seqs=1, prefill_chunk_tokens=1) as engine:
        slow_down(engine)
        request = make_request(checkpoint, (3,), max_tokens=900)
        async with engine.generate(request) as deltas:
            for _ in range(tokens_before):
                await anext(deltas)
            await eventually(lambda: engine.health().num_running == 1)
            assert engine._scheduler.num_kv_tokens == len(request.prompt_token_ids) + 900
        await eventually(lambda: engine.health().num_running == 0)
        assert engine._scheduler.num_kv_tokens == 0
        assert engine._worker._runner.num_sequences == 0
        assert not engine._streams
        assert len((await answer(engine, make_request(checkpoint)))[0]) == 16


async def test_abort_while_waiting(checkpoint):
    async with running_engine(checkpoint, max_num_seqs=1) as engine:
        slow_down(engine)
        async with engine.generate(make_request(checkpoint, max_tokens=900)) as deltas:
            await anext(deltas)
            async with engine.generate(make_request(checkpoint)):
                await eventually(lambda: engine.health().num_waiting == 1)
            await eventually(lambda: engine.health().num_waiting == 0)
            assert engine.health().num_running == 1
        await eventually(lambda: not engine._scheduler.has_work)


async def test_cancelling_the_reader_aborts(engine, checkpoint):
    slow_down(engine)
    task = asyncio.create_task(answer(engine, make_request(checkpoint, max_tokens=900)))
    await eventually(lambda: engine.health().num_running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: engine.health().num_running == 0)
    assert engine._worker._runner.num_sequences == 0


async def test_streams_go_on_while_a_long_prompt_and_images_are_read(checkpoint):
    async with running_engine(checkpoint, prefill_chunk_tokens=8) as engine:
        slow_down(engine)
        async with engine.generate(make_request(checkpoint, max_tokens=900)) as stream:
            await anext(stream)
            other = make_request(checkpoint, (12,), num_text=160, max_tokens=1)
            task = asyncio.create_task(answer(engine, other))
            num_tokens = 0
            while not task.done():
                num_tokens += len((await anext(stream)).token_ids)
        num_pieces = 12 * 2 + len(other.prompt_token_ids) // 8
        assert num_tokens >= num_pieces


async def test_a_text_prompt_overtakes_images_being_encoded(checkpoint):
    async with running_engine(checkpoint) as engine:
        step, may_go_on = engine._worker._step, threading.Event()
        engine._worker._step = lambda: may_go_on.wait(60) and step()
        ended = []

        async def run(name, request):
            await answer(engine, request)
            ended.append(name)

        image = make_request(checkpoint, (12, 12), max_tokens=1)
        text = make_request(checkpoint, max_tokens=2)
        both = asyncio.gather(run("image", image), run("text", text))
        await eventually(lambda: len(engine._streams) == 2)
        may_go_on.set()
        await both
        assert ended == ["text", "image"]


async def test_pixels_are_dropped_once_encoded(engine, checkpoint):
    request = make_request(checkpoint, (2,), max_tokens=200)
    [pixels] = request.pixel_values
    alive = weakref.ref(pixels)
    stream = engine.generate(request)
    del request, pixels
    async with stream as deltas:
        await anext(deltas)
        gc.collect()
        assert alive() is None


async def test_a_failed_step_ends_its_requests_only(engine, checkpoint, monkeypatch):
    runner = engine._worker._runner
    forward = runner.forward

    def fail_once(decode, prefill):
        if len(decode) == 2:
            monkeypatch.setattr(runner, "forward", forward)
            raise RuntimeError("broken kernel")
        return forward(decode, prefill)

    monkeypatch.setattr(runner, "forward", fail_once)
    slow_down(engine)
    requests = [make_request(checkpoint, max_tokens=900, seed=i) for i in range(2)]
    results = await asyncio.gather(
        *(answer(engine, request) for request in requests), return_exceptions=True
    )
    assert [type(result) for result in results] == [EngineError, EngineError]
    assert isinstance(results[0].__cause__, RuntimeError)
    assert engine.health().is_ready
    assert engine._scheduler.num_kv_tokens == 0
    assert len((await answer(engine, make_request(checkpoint)))[0]) == 16


@pytest.mark.parametrize("place", ["begin", "encode", "forward"])
async def test_running_out_of_memory_ends_one_request(engine, checkpoint, monkeypatch, place):
    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine._worker._runner, place, fail)
        with pytest.raises(EngineError, match="ran out of memory"):
            await answer(engine, make_request(checkpoint, (1,)))
    assert engine._worker._runner.num_sequences == 0
    assert (await answer(engine, make_request(checkpoint, (1,))))[1] == "length"


async def test_a_crash_of_the_thread_fails_everything(checkpoint, monkeypatch):
    async with running_engine(checkpoint, max_num_seqs=1) as engine:
        slow_down(engine)
        running = asyncio.create_task(answer(engine, make_request(checkpoint, max_tokens=900)))
        waiting = asyncio.create_task(answer(engine, make_request(checkpoint, max_tokens=900)))
        await eventually(lambda: engine.health().num_waiting == 1)
        monkeypatch.setattr(engine._scheduler, "plan", lambda: 1 // 0)
        for task in (running, waiting):
            with pytest.raises(EngineError):
                await task
        health = engine.health()
        assert not health.is_ready
        assert "unexpected" in health.reason
        with pytest.raises(EngineUnavailableError):
            await answer(engine, make_request(checkpoint))


async def test_health_tells_a_stall(engine, checkpoint, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.health._STALL_S", 0.05)
    runner, may_go_on = engine._worker._runner, threading.Event()
    forward = runner.forward

    def slow_forward(*arguments):
        may_go_on.wait(60)
        return forward(*arguments)

    monkeypatch.setattr(runner, "forward", slow_forward)
    assert engine.health().is_ready
    task = asyncio.create_task(answer(engine, make_request(checkpoint, max_tokens=1)))
    await eventually(lambda: not engine.health().is_ready)
    assert "no progress" in engine.health().reason
    may_go_on.set()
    await task
    assert engine.health().is_ready


async def test_close_fails_what_is_left_and_is_idempotent(checkpoint):
    async with running_engine(checkpoint, max_num_seqs=1) as engine:
        slow_down(engine)
        assert engine.health().is_ready
        running = asyncio.create_task(answer(engine, make_request(checkpoint, max_tokens=900)))
        waiting = asyncio.create_task(answer(engine, make_request(checkpoint, max_tokens=900)))
        await eventually(lambda: engine.health().num_waiting == 1)
        await engine.close()
        with pytest.raises(EngineError, match="shut down"):
            await running
        with pytest.raises(EngineUnavailableError):
            await waiting
        await engine.close()
        assert not engine.health().is_ready
        with pytest.raises(EngineUnavailableError):
            await answer(engine, make_request(checkpoint))


async def test_a_slow_reader_gets_several_tokens_in_one_delta(engine, checkpoint):
    async with engine.generate(make_request(checkpoint, max_tokens=20)) as deltas:
        await eventually(lambda: not engine._streams)
        delta = await anext(deltas)
        assert (len(delta.token_ids), delta.finish_reason) == (20, "length")
        with pytest.raises(StopAsyncIteration):
            await anext(deltas)


async def test_what_would_break_a_step_is_refused(engine, checkpoint):
    good = make_request(checkpoint, (1,))
    bad = [
        make_request(checkpoint, max_tokens=0),
        make_request(checkpoint, num_text=0),
        _changed(good, prompt_token_ids=(10**6,)),
        _changed(good, prompt_token_ids=(-1,)),
        _changed(good, pixel_values=()),
        _changed(good, images=()),
        _changed(good, pixel_values=(np.zeros((1, 3, 28, 28), np.float32),)),
        _changed(good, prompt_token_ids=good.prompt_token_ids[:6]),
    ]
    for request in bad:
        with pytest.raises(InvalidRequestError):
            await answer(engine, request)
    assert (await answer(engine, good))[1] == "length"


def _changed(request, **changes):
    import dataclasses

    return dataclasses.replace(request, **changes)


async def test_bfloat16_takes_pixels_in_its_own_type(checkpoint):
    request = make_request(checkpoint, (2,))
    [pixels] = request.pixel_values
    bits = torch.from_numpy(pixels).bfloat16().view(torch.uint16).numpy()
    async with running_engine(checkpoint, dtype="bfloat16") as engine:
        assert engine.info.pixel_type == "bfloat16"
        found = await answer(engine, _changed(request, pixel_values=(bits,)))
        assert found == await answer(engine, request)
        assert len(found[0]) == 16


async def test_int8_answers_alone_as_in_a_batch(checkpoint):
    async with running_engine(checkpoint, quantization="int8", prefill_chunk_tokens=16) as engine:
        requests = mixed_requests(checkpoint)
        together = await asyncio.gather(*(answer(engine, request) for request in requests))
        assert together == [await answer(engine, request) for request in requests]


async def test_a_checkpoint_that_cannot_be_loaded_fails_the_start(checkpoint, tmp_path):
    import dataclasses

    empty = dataclasses.replace(checkpoint, path=tmp_path)
    with pytest.raises(StartupError, match=r"model\.safetensors"):
        async with running_engine(empty, tokens=read_tokens(checkpoint)):
            pytest.fail("was started")
