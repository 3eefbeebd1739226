"""The CPU engine reuses encoded images and the keys and values of earlier prompts, and answers the same."""

import asyncio
import dataclasses

import numpy as np
import pytest
from internvl_server.core import GenerateRequest, ImageSpan
from internvl_server.errors import EngineError

from tests.model.cpu_requests import answer, make_request, read_checkpoint, running_engine

pytestmark = pytest.mark.model

BYTES_PER_TOKEN = 3 * 2 * 2 * 16 * 4  # layers, keys and values, heads, channels, float32
OFF = {"enable_prefix_caching": False, "feature_cache_bytes": 0}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return read_checkpoint(tiny_checkpoint)


@pytest.fixture
async def engine(checkpoint):
    async with running_engine(checkpoint, prefill_chunk_tokens=16) as engine:
        yield engine


@pytest.fixture
async def plain_engine(checkpoint):
    """The same without any reuse."""
    async with running_engine(checkpoint, prefill_chunk_tokens=16, **OFF) as engine:
        yield engine


@pytest.fixture
def encoded(engine, monkeypatch):
    """Number of tiles of each image that the engine encodes."""
    vision = engine._worker._runner._model.vision
    encode = vision.encode
    sizes = []

    def counted(pixel_values):
        sizes.append(len(pixel_values))
        return encode(pixel_values)

    monkeypatch.setattr(vision, "encode", counted)
    return sizes


async def ask(engine, request):
    """The ids of an answer, and the number of prompt tokens that were reused."""
    token_ids, num_cached = [], 0
    async with engine.generate(request) as deltas:
        async for delta in deltas:
            token_ids += delta.token_ids
            num_cached = delta.num_cached_tokens
    return token_ids, num_cached


def next_turn(request: GenerateRequest, answered: list[int], more: GenerateRequest):
    """The conversation so far, and another question with its images."""
    start = len(request.prompt_token_ids) + len(answered)
    moved = tuple(ImageSpan(start + s.offset, s.num_tiles, s.num_image_tokens) for s in more.images)
    return dataclasses.replace(
        more,
        prompt_token_ids=request.prompt_token_ids + tuple(answered) + more.prompt_token_ids,
        images=request.images + moved,
        pixel_values=request.pixel_values + more.pixel_values,
    )


async def test_every_turn_of_a_conversation_answers_as_without_reuse(
    engine, plain_engine, checkpoint, encoded
):
    request = make_request(checkpoint, (2,), seed=1)
    for number, tiles in enumerate([(), (3,), (), (1, 2)]):
        token_ids, _ = await ask(engine, request)
        assert (token_ids, 0) == await ask(plain_engine, request)
        computed = len(request.prompt_token_ids) + len(token_ids) - 1
        more = make_request(checkpoint, tiles, seed=10 + number, max_tokens=20)
        request = next_turn(request, token_ids, more)
        _, num_cached = await ask(engine, dataclasses.replace(request, max_tokens=1))
        assert num_cached == computed
    assert encoded == [2, 3, 1, 2]


async def test_a_repeated_question_computes_one_token_of_its_prompt(engine, checkpoint, encoded):
    request = make_request(checkpoint, (2, 1), seed=2)
    first, num_cached = await ask(engine, request)
    assert num_cached == 0
    again, num_cached = await ask(engine, request)
    assert again == first
    assert num_cached == len(request.prompt_token_ids) - 1
    assert encoded == [2, 1]


async def test_a_known_image_elsewhere_is_not_encoded_again(
    engine, plain_engine, checkpoint, encoded
):
    known = make_request(checkpoint, (2,), seed=3)
    await ask(engine, known)
    other = make_request(checkpoint, (1,), seed=4)
    both = next_turn(other, [5], known)
    token_ids, num_cached = await ask(engine, both)
    assert (token_ids, num_cached) == await ask(plain_engine, both)
    assert encoded == [2, 1]


async def test_choices_share_the_encoding_of_an_image(engine, checkpoint, encoded):
    request = make_request(checkpoint, (3,), seed=5)
    answers = await asyncio.gather(*(answer(engine, request) for _ in range(4)))
    assert encoded == [3]
    assert answers == [answers[0]] * 4


async def test_an_aborted_encoding_is_done_again_by_the_next_choice(engine, checkpoint):
    request = make_request(checkpoint, (6,), seed=5)
    expected = await answer(engine, make_request(checkpoint, (6,), seed=5))
    async with running_engine(checkpoint) as fresh:
        async with fresh.generate(request):
            other = asyncio.create_task(answer(fresh, request))
            await asyncio.sleep(0)
        assert await other == expected


async def test_different_images_of_equal_size_are_never_mixed_up(engine, plain_engine, checkpoint):
    text = make_request(checkpoint, (2,), seed=6)
    rng = np.random.default_rng(7)
    shape = text.pixel_values[0].shape
    requests = [
        dataclasses.replace(text, pixel_values=(rng.standard_normal(shape, dtype=np.float32),))
        for _ in range(4)
    ]
    expected = [await answer(plain_engine, request) for request in requests]
    assert len({tuple(ids) for ids, _ in expected}) > 1
    for _ in range(2):
        assert [await answer(engine, request) for request in requests] == expected
    assert (
        await asyncio.gather(*(answer(engine, request) for request in requests * 3)) == expected * 3
    )


async def test_an_aborted_request_leaves_what_it_computed(engine, plain_engine, checkpoint):
    request = make_request(checkpoint, (2,), seed=8, max_tokens=900)
    async with engine.generate(request) as deltas:
        await anext(deltas)
    short = dataclasses.replace(request, max_tokens=10)
    token_ids, num_cached = await ask(engine, short)
    assert num_cached == len(request.prompt_token_ids) - 1
    assert (token_ids, 0) == await ask(plain_engine, short)
    assert engine._scheduler.num_kv_tokens == 0


async def test_a_failed_request_leaves_nothing(engine, checkpoint, monkeypatch):
    request = make_request(checkpoint, (2,), seed=9)

    def fail(*_):
        raise RuntimeError("broken kernel")

    with monkeypatch.context() as patch:
        patch.setattr(engine._worker._runner, "forward", fail)
        with pytest.raises(EngineError):
            await answer(engine, request)
    assert engine._worker._runner._prefixes.num_tokens == 0
    assert (await ask(engine, request))[1] == 0


async def test_reserved_and_kept_memory_together_never_exceed_the_bound(checkpoint):
    kv_cache_bytes = 130 * BYTES_PER_TOKEN
    async with running_engine(checkpoint, kv_cache_bytes=kv_cache_bytes) as engine:
        seen = []
        step = engine._worker._step

        def watched_step():
            step()
            kept = engine._worker._runner._prefixes.num_tokens
            seen.append((engine._scheduler.num_kv_tokens + kept, kept))

        engine._worker._step = watched_step
        requests = [make_request(checkpoint, max_tokens=5 + 7 * i, seed=i % 5) for i in range(12)]
        await asyncio.gather(*(answer(engine, request) for request in requests))
    assert max(total for total, _ in seen) <= 130
    assert max(kept for _, kept in seen) > 60


async def test_a_conversation_larger_than_half_of_the_memory_is_reused(checkpoint):
    """There is no room for the earlier turn and the next one, which takes its memory over."""
    async with running_engine(checkpoint, kv_cache_bytes=200 * BYTES_PER_TOKEN) as engine:
        request = make_request(checkpoint, num_text=120, seed=1, max_tokens=10)
        token_ids, _ = await ask(engine, request)
        request = next_turn(request, token_ids, make_request(checkpoint, num_text=5, max_tokens=50))
        again, num_cached = await ask(engine, request)
        assert num_cached == 129
        async with running_engine(checkpoint, **OFF) as plain:
            assert (again, 0) == await ask(plain, request)
        assert engine._worker._runner._prefixes.num_tokens <= 200


async def test_reuse_can_be_hidden_and_switched_off(checkpoint):
    request = make_request(checkpoint, (2,), seed=3)
    async with running_engine(checkpoint, report_cached_tokens=False) as engine:
        assert [(await ask(engine, request))[1] for _ in range(2)] == [0, 0]
        assert engine._worker._runner._prefixes.num_tokens > 0
    async with running_engine(checkpoint, **OFF) as engine:
        assert [(await ask(engine, request))[1] for _ in range(2)] == [0, 0]
        assert engine._worker._runner._prefixes is None
        assert engine._worker._runner._features.num_bytes == 0
