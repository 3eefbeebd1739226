"""How the context is divided between text, images and answer."""

import pytest
from internvl_server.core import (
    Conversation,
    Detail,
    ImageMeasure,
    ImageReference,
    Message,
    SamplingParams,
    TextPart,
)
from internvl_server.engine.base import EngineInfo
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.pipeline.lengths import Lengths, fewer_tiles_warnings
from internvl_server.prompt.builder import PromptSkeleton
from internvl_server.settings import LimitSettings

IMAGE = ImageReference("data:,", Detail.AUTO, None, "p")
USER = Message("user", (IMAGE, TextPart("?")))
TEXT = Message("user", (TextPart("?"),))
ANSWER = Message("assistant", (TextPart("x"),))
RESULT = Message("tool", (IMAGE, IMAGE), tool_call_id="1")


def lengths(context: int = 8192, *, of_engine: int = 0, of_server: int = 0) -> Lengths:
    info = EngineInfo("any", context, 1, frozenset(), default_max_tokens=of_engine)
    return Lengths(info, LimitSettings(default_max_tokens=of_server))


@pytest.mark.parametrize(
    ("of_server", "of_engine", "num_logprobs", "default"),
    [
        (0, 0, None, 8192),
        (0, 1024, None, 1024),
        (7, 1024, None, 7),
        (5000, 0, None, 5000),
        (0, 0, 0, 1024),
        (7, 0, 5, 7),
    ],
)
def test_the_default_of_an_answer(
    of_server: int, of_engine: int, num_logprobs: int | None, default: int
) -> None:
    made = lengths(of_engine=of_engine, of_server=of_server)
    assert made.default_max_tokens(SamplingParams(num_logprobs=num_logprobs)) == default
    own = SamplingParams(num_logprobs=num_logprobs, default_max_tokens=64_000)
    assert made.default_max_tokens(own) == 64_000


@pytest.mark.parametrize(
    ("made", "max_tokens", "most", "shared"),
    [
        (lengths(), None, 8091, 7068),  # a quarter of the context would be more than 1024
        (lengths(2048), None, 1947, 1436),
        (lengths(of_server=10), None, 8091, 8082),
        (lengths(), 3000, 5092, 5092),
        (lengths(), 9000, -908, -908),
        (lengths(1), None, -100, -100),
    ],
)
def test_images_leave_room_for_the_answer(
    made: Lengths, max_tokens: int | None, most: int, shared: int
) -> None:
    skeleton = PromptSkeleton(([0] * 100,))
    budget = made.image_budget(Conversation((USER,)), skeleton, SamplingParams(max_tokens))
    assert budget == ImageBudget(most, shared, num_earlier=0)


@pytest.mark.parametrize(
    ("messages", "num_earlier"),
    [
        ([TEXT], 0),
        ([USER], 0),
        ([USER, USER], 0),
        ([USER, ANSWER, USER], 1),
        ([USER, ANSWER, USER, USER], 1),
        ([USER, ANSWER, USER, ANSWER, TEXT], 1),
        ([USER, ANSWER, USER, ANSWER], 1),
        ([USER, ANSWER, TEXT, ANSWER, TEXT], 0),
        ([USER, ANSWER, RESULT], 1),
        ([USER, ANSWER, RESULT, ANSWER, RESULT, USER], 3),
    ],
)
def test_which_images_belong_to_earlier_turns(messages: list[Message], num_earlier: int) -> None:
    assert Conversation(tuple(messages)).num_earlier_media == num_earlier


def test_the_warning_counts_the_images_that_have_fewer_tiles() -> None:
    whole, fewer, frame = (
        ImageMeasure((9, 9), 5, 5),
        ImageMeasure((9, 9), 3, 9),
        ImageMeasure((9, 9), 1),
    )
    assert fewer_tiles_warnings([whole, frame]) == ()
    [warning] = fewer_tiles_warnings([whole, fewer, frame, fewer])
    assert warning == (
        "2 of 4 images and frames have fewer tiles than requested, 6 instead of 18, so that all of them fit."
    )
