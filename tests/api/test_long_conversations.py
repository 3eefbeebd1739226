"""Conversations and requests with many pictures: which of them lose tiles, and what a client is told."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.api.test_errors import assert_envelope
from tests.live_server import LiveServer

MODEL = "tiny"
QUESTION = {"type": "text", "text": "?"}


def image(url: str, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | options}


def turns(*pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation with these pictures in its user turns; the last turn is not answered."""
    messages: list[dict[str, Any]] = []
    for parts in pictures:
        messages += [{"role": "user", "content": [*parts, QUESTION]}]
        messages += [{"role": "assistant", "content": "x"}]
    return messages[:-1]


def tiles(answer: httpx2.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [i["tiles"] for i in answer.json()["usage"]["prompt_tokens_details"]["images"]]


def say(server: LiveServer, messages: list[dict[str, Any]], **options: Any) -> httpx2.Response:
    return server.post({"model": MODEL, "messages": messages, "max_tokens": 1} | options)


def test_each_turn_is_answered_and_the_newest_picture_is_whole(
    start_server: Callable[..., LiveServer], picture_url: Callable[..., str]
) -> None:
    """40 turns with a picture of 9 tiles each."""
    server = start_server(media={"shared_tiles": 40})
    picture = image(picture_url(700, 350), max_tiles=8)
    counts = [tiles(say(server, turns(*[[picture]] * num))) for num in range(1, 41)]
    assert [turn[-1] for turn in counts] == [9] * 40
    for num_earlier, turn in enumerate(counts):
        num_tiles = 9 if num_earlier < 4 else 3 if num_earlier < 11 else 1
        assert turn[:-1] == [num_tiles] * num_earlier


def test_a_question_about_the_last_picture_keeps_its_tiles(
    start_server: Callable[..., LiveServer], picture_url: Callable[..., str]
) -> None:
    server = start_server(media={"shared_tiles": 12})
    picture = image(picture_url(700, 350), max_tiles=8)
    conversation = turns([picture], [picture])
    assert tiles(say(server, conversation)) == [3, 9]
    assert tiles(say(server, turns([picture], [picture], []))) == [3, 9]
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": [picture]}
    assert tiles(say(server, [*conversation, asked, result])) == [1, 1, 9]


def test_the_header_says_that_pictures_have_fewer_tiles(
    start_server: Callable[..., LiveServer], picture_url: Callable[..., str]
) -> None:
    server = start_server(media={"shared_tiles": 12})
    picture = image(picture_url(700, 350), max_tiles=8)
    assert "x-warnings" not in say(server, turns([picture])).headers
    for messages, warning in (
        (turns([picture], [picture]), "1 of 2 images and frames have fewer tiles than requested, 3 "
         "instead of 9, so that all of them fit."),
        (turns([picture, picture, picture]), "3 of 3 images and frames have fewer tiles than requested, 9 "
         "instead of 27, so that all of them fit."),
    ):  # fmt: skip
        for options in ({}, {"stream": True}):
            assert say(server, messages, **options).headers["x-warnings"] == warning


@pytest.mark.parametrize("num_images", [32, 64, 100])
def test_many_pictures_in_one_message(
    echo_server: LiveServer, picture_url: Callable[..., str], num_images: int
) -> None:
    url = picture_url(64, 36)
    assert tiles(say(echo_server, turns([image(url)] * num_images))) == [1] * num_images


def test_only_what_cannot_have_one_tile_each_is_refused(
    echo_server: LiveServer, picture_url: Callable[..., str]
) -> None:
    """Without a limit of the answer, pictures may take all of the context but one token."""
    picture, max_model_len = image(picture_url(64, 36)), echo_server.engine.info.max_model_len
    answer = echo_server.post({"model": MODEL, "messages": turns([picture])}).json()["usage"]
    two = echo_server.post({"model": MODEL, "messages": turns([picture] * 2)}).json()["usage"]
    per_picture = two["prompt_tokens"] - answer["prompt_tokens"]
    most = 100
    while True:
        body = {"model": MODEL, "messages": turns([picture] * most)}
        response = echo_server.post(body)
        if response.status_code != 200:
            break
        num_prompt_tokens = response.json()["usage"]["prompt_tokens"]
        most += 1
    assert_envelope(response, 400, "context_length_exceeded", "messages")
    assert max_model_len - 2 * per_picture < num_prompt_tokens < max_model_len
