"""Content markers in answers: `<ref>` and `<box>` are shown unless the request itself skips them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.live_server import LiveServer

MODEL = "tiny"
MARKED = "<ref>the circle</ref><box>[[10, 20, 30, 40]]</box>"
BARE = "the circle[[10, 20, 30, 40]]"
ASK: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": MARKED}]
SKIP = pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, MARKED),
        ({"skip_special_tokens": None}, MARKED),
        ({"skip_special_tokens": False}, MARKED),
        ({"skip_special_tokens": True}, BARE),
    ],
)


@pytest.fixture
def client(echo_server: LiveServer) -> Iterator[OpenAI]:
    """Without strict validation: the SDK's completions have no null for `finish_reason`."""
    url = f"{echo_server.url}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@SKIP
def test_chat(client: OpenAI, options: dict[str, Any], text: str) -> None:
    fields: dict[str, Any] = {"model": MODEL, "messages": ASK, "extra_body": options}
    whole = client.chat.completions.create(**fields).choices[0].message.content or ""
    assert text in whole
    assert (MARKED in whole) == (text == MARKED)
    chunks = client.chat.completions.create(**fields, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole


@SKIP
def test_completions(client: OpenAI, options: dict[str, Any], text: str) -> None:
    fields: dict[str, Any] = {"model": MODEL, "prompt": MARKED, "extra_body": options}
    assert client.completions.create(**fields, max_tokens=100).choices[0].text == text
    chunks = client.completions.create(**fields, max_tokens=100, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == text


@SKIP
def test_responses(client: OpenAI, options: dict[str, Any], text: str) -> None:
    fields: dict[str, Any] = {"model": MODEL, "input": MARKED, "extra_body": options}
    whole = client.responses.create(**fields, instructions="s").output_text
    assert text in whole
    assert (MARKED in whole) == (text == MARKED)
    events = client.responses.create(**fields, instructions="s", stream=True)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole


def test_messages(echo_server: LiveServer) -> None:
    body: Any = {"model": MODEL, "max_tokens": 200, "messages": ASK[1:], "system": "s"}
    with httpx2.Client(base_url=echo_server.url, timeout=60) as client:
        whole = client.post("/v1/messages", json=body).json()["content"][0]["text"]
        streamed = client.post("/v1/messages", json=body | {"stream": True}).text
    assert MARKED in whole
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: ")]
    deltas = [e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta"]
    assert "".join(deltas) == whole


def test_a_marker_is_one_token_of_the_prompt(client: OpenAI) -> None:
    def num_tokens(prompt: str) -> int:
        usage = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1).usage
        assert usage is not None
        return usage.prompt_tokens

    assert num_tokens("a<ref>") == 2
    assert num_tokens("a<img>") == 6


def test_log_probabilities_have_the_markers_that_the_text_has(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, logprobs=True)
    entries = (answer.choices[0].logprobs and answer.choices[0].logprobs.content) or []
    text = bytes(byte for entry in entries for byte in entry.bytes or ()).decode()
    assert text == answer.choices[0].message.content
    assert [e.token for e in entries if e.token in ("<ref>", "</box>")] == ["<ref>", "</box>"]


def test_a_stop_string_may_have_a_marker(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, stop="</box>")
    assert (answer.choices[0].message.content or "").endswith("40]]")
    assert answer.choices[0].finish_reason == "stop"
