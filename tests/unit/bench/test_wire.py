"""Events of the endpoints, and the pieces they come in."""

import json
from typing import Any

import pytest
from internvl_server.bench.client import EventReader
from internvl_server.bench.datasets.base import Prompt
from internvl_server.bench.wire import ENDPOINTS, Chunk, Usage

EVENTS = b'data: {"a": 1}\n\n: ping\n\nevent: x\ndata: {"b": 2}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_events_do_not_depend_on_pieces(size: int, ending: bytes) -> None:
    stream = EVENTS.replace(b"\n", ending)
    reader = EventReader()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    found = [data for piece in pieces for data in reader.feed(piece)]
    assert found == [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]


def parse(endpoint: str, value: Any) -> Chunk:
    return ENDPOINTS[endpoint].parse(json.dumps(value).encode())


def test_the_first_chunk_of_chat_has_no_text() -> None:
    chunk = parse("chat", {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    assert (chunk.text, chunk.is_part, chunk.is_last) == ("", True, False)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "hi"},
        {"reasoning_content": "hi"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "hi"}}]},
    ],
)
def test_all_that_a_model_writes_is_text(delta: dict[str, Any]) -> None:
    assert parse("chat", {"choices": [{"delta": delta}]}).text == "hi"


def test_usage_has_either_names() -> None:
    chat = parse("chat", {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    assert (chat.usage, chat.is_part) == (Usage(3, 4), False)
    details = {"cached_tokens": 2}
    usage = {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": details}
    response = {"usage": usage}
    ended = parse("responses", {"type": "response.completed", "response": response})
    assert (ended.usage, ended.is_last) == (Usage(3, 4, 2), True)


def test_errors_within_a_stream_are_errors() -> None:
    error = {"code": "engine_error", "message": "gone"}
    assert parse("chat", {"error": error}).error == ("engine_error", "gone")
    assert parse("responses", {"type": "error", **error}).error == ("engine_error", "gone")
    failed = {"type": "response.failed", "response": {"error": error}}
    assert parse("responses", failed).error == ("engine_error", "gone")


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b""])
def test_other_data_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ENDPOINTS["chat"].parse(data)


def test_bodies() -> None:
    prompt = Prompt("text", "system", max_tokens=5, fields={"top_p": 0.5})
    chat = ENDPOINTS["chat"].body(prompt, "m", {"seed": 1}, stream=True)
    assert chat["messages"] == [
        {"role": "system", "content": "system"},
        {"role": "user", "content": "text"},
    ]
    assert (chat["max_tokens"], chat["top_p"], chat["seed"]) == (5, 0.5, 1)
    assert chat["stream_options"] == {"include_usage": True}
    whole = ENDPOINTS["completions"].body(prompt, "m", {}, stream=False)
    assert whole["prompt"] == "system text"
    assert "stream_options" not in whole
    assert ENDPOINTS["responses"].body(prompt, "m", {}, stream=True)["max_output_tokens"] == 5


def test_a_conversation_becomes_input_items() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:,x"}},
        {"type": "text", "text": "what?"},
    ]
    [item] = Prompt(messages=[{"role": "user", "content": parts}]).response_items()
    assert item["content"] == [
        {"type": "input_image", "image_url": "data:,x"},
        {"type": "input_text", "text": "what?"},
    ]
