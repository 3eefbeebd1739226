"""What one request becomes at the native border, and what each native status becomes at ours."""

import asyncio
from dataclasses import replace

import pytest
import torch
from internvl_server.core import Detail, ImageReference, PixelType, Regex, SamplingParams
from internvl_server.engine.turbomind.requests import outputs as adapter
from internvl_server.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    Field,
    InvalidRequestError,
    UnsupportedParameterError,
)
from internvl_server.media.preparer import MediaPreparer
from internvl_server.settings import MediaSettings
from lmdeploy.messages import ResponseType
from PIL import Image, ImageFile

from tests.conftest import data_url
from tests.lmdeploy.native import CANCEL, Plan
from tests.lmdeploy.requests import END, TILE_PX, answer, make_request, until
from tests.parity.pictures import make_picture

GUIDE = Regex("[a-z]+")


@pytest.mark.parametrize("layout", ["hf", "authors"])
async def test_ids_reach_the_native_side(make_engine, loop, layout):
    engine = await make_engine(layout)
    loop.plan = lambda call: Plan([65, 66, END])
    assert await answer(engine, make_request((5, 6, 7))) == ([65, 66, END], "stop")
    (call,) = loop.calls
    assert call.input_ids == [5, 6, 7]
    assert (call.step, call.stream_output, call.items, call.grammar) == (0, True, [], None)
    assert call.config["max_new_tokens"] == 16
    assert call.config["eos_ids"] == [320, END]
    assert call.config["stop_ids"] == [[320, END], [1, 2]]


@pytest.mark.parametrize("layout", ["hf", "authors"])
@pytest.mark.parametrize("tiles", [(1,), (3, 1, 2, 1, 4)])
@pytest.mark.parametrize("dtype", ["auto", "float16"])
async def test_images_reach_the_native_side(make_engine, loop, layout, tiles, dtype):
    engine = await make_engine(layout, dtype=dtype)
    pixel_type = PixelType.BFLOAT16 if dtype == "auto" else PixelType.FLOAT16
    assert engine.info.pixel_type is pixel_type
    request = make_request(tiles=tiles, pixel_type=pixel_type)
    await answer(engine, request)
    (call,) = loop.calls
    values = request.pixel_values
    for item, span, ours in zip(call.items, request.images, values, strict=True):
        end = span.offset + span.num_image_tokens
        assert (item.token_begin, item.token_end) == (span.offset, end)
        assert item.fingerprint == span.fingerprint
        expected = torch.from_numpy(ours).view(getattr(torch, pixel_type))
        assert item.pixels.dtype == expected.dtype
        assert torch.equal(item.pixels, expected)


@pytest.fixture
async def media():
    """Prepares images in the type of the stand-in, and keeps none."""
    settings = MediaSettings(num_workers=1, cache_bytes=0)
    media = MediaPreparer(settings, tile_px=TILE_PX, pixel_type=lambda: PixelType.BFLOAT16)
    await media.start()
    yield media
    await media.close()


async def prepared(media, number):
    """Pixels of one of several pictures of the same size."""
    url = data_url(make_picture(100, 60).point(lambda level: level ^ number))
    [tiles] = await media.prepare([ImageReference(url, Detail.AUTO, 12, "image")])
    return tiles.pixels


async def test_pixels_are_not_overwritten_while_turbomind_has_them(make_engine, loop, media):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65], None)
    values = await prepared(media, 0)
    expected, place = torch.from_numpy(values.copy()), values.ctypes.data
    request = replace(make_request(tiles=(len(values),)), pixel_values=(values,))
    async with engine.generate(request) as deltas:
        del request, values
        await anext(deltas)
        for number in range(1, 7):
            others = await prepared(media, number)
            assert others.shape == expected.shape
            assert others.ctypes.data != place
        [item] = loop.calls[0].items
        assert item.pixels.data_ptr() == place, "it was copied"
        assert torch.equal(item.pixels.view(torch.uint16), expected)


@pytest.mark.parametrize(
    ("asked", "handed"),
    [
        ({"temperature": 0.0, "top_k": 9, "top_p": 0.5, "min_p": 0.5},
         {"top_k": 1, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}),
        ({"top_p": 0.0}, {"top_k": 1, "top_p": 1.0}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"min_p": 0.25, "temperature": 0.5}, {"min_p": 0.25, "temperature": 0.5}),
        ({"temperature": 0.0, "repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"seed": 0}, {"random_seed": 0}),
        ({"seed": -1}, {"random_seed": 2**64 - 1}),
        ({"seed": -(2**63)}, {"random_seed": 2**63}),
        ({"seed": 2**63 - 1}, {"random_seed": 2**63 - 1}),
    ],
)  # fmt: skip
async def test_sampling(make_engine, loop, asked, handed):
    engine = await make_engine()
    await answer(engine, make_request(**asked))
    (call,) = loop.calls
    assert {name: call.config[name] for name in handed} == handed


async def test_a_request_without_a_seed_gets_a_fresh_one(make_engine, loop):
    engine = await make_engine()
    for _ in range(3):
        await answer(engine, make_request())
    assert len({call.config["random_seed"] for call in loop.calls}) == 3


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        (make_request(tuple(range(300)) * 7), ContextLengthExceededError, Field.PROMPT),
        (make_request(()), InvalidRequestError, Field.MAX_TOKENS),
        (make_request(max_tokens=0), InvalidRequestError, Field.MAX_TOKENS),
        (make_request((351,)), InvalidRequestError, None),
        (make_request(top_k=1025), InvalidRequestError, "top_k"),
        (make_request(stop=frozenset({END, 351})), InvalidRequestError, "stop_token_ids"),
        (make_request(stop=frozenset({END, -1})), InvalidRequestError, "stop_token_ids"),
        (make_request(stop=frozenset(range(1, 34))), InvalidRequestError, "stop_token_ids"),
        (
            make_request(stop=frozenset({END, 0}), min_tokens=1),
            UnsupportedParameterError,
            "min_tokens",
        ),
        (make_request(constraint=GUIDE, min_tokens=1), UnsupportedParameterError, "min_tokens"),
        (make_request(constraint=GUIDE, stop=frozenset()), UnsupportedParameterError, "ignore_eos"),
        (
            replace(
                make_request(max_tokens=2**40),
                sampling=SamplingParams(max_tokens=2**40, temperature=0.0, num_logprobs=1),
            ),
            InvalidRequestError,
            Field.LOGPROBS,
        ),
    ],
)
async def test_what_can_never_run_is_refused_on_entering(make_engine, loop, request_, error, param):
    engine = await make_engine()
    with pytest.raises(error) as caught:
        await answer(engine, request_)
    assert caught.value.param == param
    assert loop.calls == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (1, EngineError), (2, EngineError), (5, EngineError), (6, ContextLengthExceededError),
        (CANCEL, EngineError), (9, EngineError), (10, EngineUnavailableError),
        (11, EngineOverloadedError), (-1, EngineError), (77, EngineError),
    ],
)  # fmt: skip
@pytest.mark.parametrize("num_tokens", [0, 3])
async def test_statuses(make_engine, loop, status, error, num_tokens):
    engine = await make_engine(max_num_seqs=1)
    ids: list[int] = []  # all that came before the status are read before it
    loop.plan = lambda call: Plan([65] * num_tokens, status, may_have=lambda: len(ids) + 1)
    with pytest.raises((EngineError, ContextLengthExceededError, error)) as caught:
        await answer(engine, make_request(), ids)
    if num_tokens and error in (EngineUnavailableError, EngineOverloadedError):
        error = EngineError  # its beginning was sent: it is not one that was never executed
    assert type(caught.value) is error
    loop.plan = lambda call: Plan([65, END])
    assert await answer(engine, make_request()) == ([65, END], "stop")


def test_every_status_of_lmdeploy_is_known():
    known = set(adapter._ERRORS) | {ResponseType.SUCCESS, ResponseType.FINISH}
    assert set(ResponseType) == known


async def test_the_end_of_max_tokens_is_length(make_engine, loop):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65] * 99)
    assert await answer(engine, make_request(max_tokens=5)) == ([65] * 5, "length")


async def test_pillows_limits_are_ours(make_engine):
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    before = Image.MAX_IMAGE_PIXELS
    await make_engine()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert before == Image.MAX_IMAGE_PIXELS


async def test_health_follows_the_scheduler(make_engine, loop, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.health._STALL_S", 0.3)
    monkeypatch.setattr("internvl_server.engine.turbomind.supervisor._SAMPLE_S", 0.02)
    engine = await make_engine()
    assert engine.health().is_ready
    loop.plan = lambda call: Plan([65], None, wait_steps=10**9)  # computes, but says nothing
    async with engine.generate(make_request()) as deltas:
        waiting = asyncio.ensure_future(anext(deltas))
        await asyncio.sleep(0.8)
        await until(lambda: engine.health().is_ready)
        assert engine.health().num_running == 1
        loop.freeze()
        await until(lambda: "no progress" in engine.health().reason)
        loop.thaw()
        await until(lambda: engine.health().is_ready)
        waiting.cancel()


async def test_health_without_ticks_follows_the_tokens(make_engine, loop, monkeypatch):
    loop.has_metrics = False
    engine = await make_engine()
    limit = 1
    loop.plan = lambda call: Plan([65, 65], None, may_have=lambda: limit)
    async with engine.generate(make_request()) as deltas:
        await anext(deltas)
        assert engine.health().is_ready
        monkeypatch.setattr("internvl_server.engine.health._STALL_S", 0.3)
        await until(lambda: not engine.health().is_ready)
        silent_since = engine._jobs.last_progress
        limit = 2
        await anext(deltas)
        assert engine._jobs.last_progress > silent_since


async def test_an_engine_that_does_not_run_refuses(make_engine, loop):
    engine = await make_engine()
    await engine.close()
    assert not engine.health().is_ready
    with pytest.raises(EngineUnavailableError):
        await answer(engine, make_request())


async def test_the_schedulers_metrics_are_read(make_engine, loop, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.turbomind.supervisor._SAMPLE_S", 0.01)
    engine = await make_engine()
    loop.plan = lambda call: Plan([65], None)
    async with engine.generate(make_request()) as deltas:
        await anext(deltas)
        await until(lambda: engine.scheduler_metrics and engine.scheduler_metrics.num_active)
        found = engine.scheduler_metrics
    assert (found.num_active, found.num_waiting) == (1, 2)
    assert (found.cache_usage, found.prefix_cache_hit_rate) == (0.25, 0.5)
    assert found.tick > 0
