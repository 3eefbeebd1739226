"""`/v1/messages` with the real SDK, strict validation on, against the whole server with the echo engine."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import anthropic
import httpx2
import pytest
from anthropic.types import Message
from pydantic import BaseModel

from tests.live.test_streams import hold_tokens
from tests.live_server import LiveServer

MODEL = "tiny"
# The echo engine repeats the prompt: a system text of one letter keeps that short.
ASK: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 400,
    "system": "s",
    "messages": [{"role": "user", "content": "hello"}],
}
ECHO = "system\ns\nuser\nhello\nassistant\n"


@pytest.fixture
def client(echo_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with echo_server.anthropic_client() as made:
        yield made


def post(server: LiveServer, body: Any, path: str = "/v1/messages") -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, timeout=60)


def frames(answer: httpx2.Response) -> list[tuple[str, Any]]:
    """The events of a stream: the name in the frame, and the data."""
    found = []
    for frame in answer.text.strip().split("\n\n"):
        name, data = frame.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_whole_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ASK)
    assert text_of(message) == ECHO
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.id.startswith("msg_")


def test_usage_is_that_of_chat(client: anthropic.Anthropic, echo_server: LiveServer) -> None:
    chat = echo_server.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
    )
    usage = client.messages.create(**ASK).usage
    assert chat.usage is not None
    assert usage.input_tokens == chat.usage.prompt_tokens
    assert usage.output_tokens == chat.usage.completion_tokens
    assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (0, 0)
    count = client.messages.count_tokens(
        model=MODEL, system=ASK["system"], messages=ASK["messages"]
    )
    assert count.input_tokens == usage.input_tokens


def test_stream_and_whole_message_agree(client: anthropic.Anthropic) -> None:
    ask = ASK | {"messages": [{"role": "user", "content": "héllo 世界 🙂"}]}
    whole = client.messages.create(**ask)
    with client.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(whole)
    assert "世界 🙂" in text
    assert text_of(final) == text
    assert final.stop_reason == whole.stop_reason
    assert final.usage == whole.usage


def test_the_order_of_the_events(client: anthropic.Anthropic, echo_server: LiveServer) -> None:
    events = frames(post(echo_server, ASK | {"stream": True}))
    kinds = [data["type"] for _, data in events]
    assert [name for name, _ in events] == kinds
    num_deltas = len(events) - 5
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * num_deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, ending = events[0][1]["message"], events[-2][1]
    assert start["content"] == []
    assert start["stop_reason"] is None
    assert start["usage"]["input_tokens"] == ending["usage"]["input_tokens"] > 0
    assert start["usage"]["output_tokens"] == 0
    assert ending["usage"]["output_tokens"] > 0
    assert ending["delta"] == {
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
    }
    assert {data["index"] for _, data in events if "index" in data} == {0}
    raw = client.messages.create(**ASK, stream=True)
    assert [event.type for event in raw] == kinds


async def test_the_async_client(echo_server: LiveServer) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=echo_server.url, api_key="none", _strict_response_validation=True
    ) as client:
        whole = await client.messages.create(**ASK)
        async with client.messages.stream(**ASK) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        count = await client.messages.count_tokens(model=MODEL, messages=ASK["messages"])
    assert text_of(whole) == text_of(final) == text == ECHO
    assert count.input_tokens > 0


def test_raw_responses_have_the_requests_id(client: anthropic.Anthropic) -> None:
    raw = client.messages.with_raw_response.create(**ASK)
    assert raw.headers["request-id"] == raw.headers["x-request-id"] == raw.request_id
    message = raw.parse()
    assert message.id == f"msg_{raw.request_id}"
    Message.model_validate(raw.http_response.json(), strict=True)


def test_beta_calls(client: anthropic.Anthropic) -> None:
    betas = ["context-management-2025-06-27", "interleaved-thinking-2025-05-14"]
    message = client.beta.messages.create(**ASK, betas=betas)
    assert text_of(message) == ECHO
    with client.beta.messages.stream(**ASK, betas=betas) as stream:
        assert text_of(stream.get_final_message()) == ECHO
    count = client.beta.messages.count_tokens(
        model=MODEL, messages=ASK["messages"], system="s", betas=betas
    )
    assert count.input_tokens == message.usage.input_tokens


def test_the_limit_of_tokens(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ASK | {"max_tokens": 3})
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 3
    with client.messages.stream(**ASK | {"max_tokens": 3}) as stream:
        assert stream.get_final_message().stop_reason == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_may_end_with_the_context(echo_server: LiveServer, *, stream: bool) -> None:
    limit = echo_server.engine.info.max_model_len
    long = [{"role": "user", "content": "x" * (limit * 2 // 3)}]
    answer = post(echo_server, ASK | {"max_tokens": 64_000, "messages": long, "stream": stream})
    assert answer.status_code == 200, answer.text
    message = answer.json() if not stream else {}
    if stream:
        ending = frames(answer)[-2][1]
        message = ending["delta"] | {"usage": ending["usage"]}
    assert message["stop_reason"] == "model_context_window_exceeded"
    assert message["usage"]["input_tokens"] + message["usage"]["output_tokens"] == limit


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_that_was_found_is_named(
    client: anthropic.Anthropic, *, stream: bool
) -> None:
    ask = ASK | {"stop_sequences": ["nothing like it", "llo", "hell"]}
    if stream:
        with client.messages.stream(**ask) as answer:
            message = answer.get_final_message()
    else:
        message = client.messages.create(**ask)
    assert text_of(message) == "system\ns\nuser\n"
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "hell")


def test_an_empty_answer_is_an_empty_text(client: anthropic.Anthropic) -> None:
    ask = ASK | {"stop_sequences": ["s"]}
    message = client.messages.create(**ask)
    assert [block.type for block in message.content] == ["text"]
    assert text_of(message) == ""
    with client.messages.stream(**ask) as stream:
        assert text_of(stream.get_final_message()) == ""


def test_sampling_fields(client: anthropic.Anthropic) -> None:
    fields = {"temperature": 0, "top_p": 0.5, "top_k": 40, "seed": 3, "min_p": 0.1}
    assert text_of(client.messages.create(**ASK, extra_body=fields)) == ECHO
    for name, value in {"temperature": 3, "top_p": 2, "top_k": -2}.items():
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.create(**ASK, extra_body={name: value})
        assert caught.value.body["error"]["details"]["param"] == name


def test_a_system_text_in_blocks(client: anthropic.Anthropic) -> None:
    system: Any = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    message = client.messages.create(**ASK | {"system": system})
    assert text_of(message).startswith("system\na\nb\nuser")


def test_the_last_message_of_the_assistant_is_continued(client: anthropic.Anthropic) -> None:
    messages: Any = [*ASK["messages"], {"role": "assistant", "content": "The answer is ("}]
    message = client.messages.create(**ASK | {"messages": messages})
    assert text_of(message).endswith("assistant\nThe answer is (")
    count = client.messages.count_tokens(model=MODEL, system="s", messages=messages)
    assert count.input_tokens == message.usage.input_tokens


def test_a_schema_for_the_answer(client: anthropic.Anthropic) -> None:
    class Point(BaseModel):
        x: int
        y: int

    parsed = client.messages.parse(**ASK, output_format=Point)
    assert isinstance(parsed.parsed_output, Point)
    with client.messages.stream(**ASK, output_format=Point) as stream:
        assert isinstance(stream.get_final_message().parsed_output, Point)
    schema = {"type": "json_schema", "schema": Point.model_json_schema()}
    older = client.messages.create(**ASK, extra_body={"output_format": schema})
    Point.model_validate_json(text_of(older))


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_format_and_a_begun_answer_contradict_each_other(
    echo_server: LiveServer, path: str
) -> None:
    schema = {"type": "json_schema", "schema": {"type": "object"}}
    begun = [*ASK["messages"], {"role": "assistant", "content": "{"}]
    body = ASK | {"messages": begun, "output_config": {"format": schema}}
    answer = post(echo_server, body, path)
    assert answer.status_code == 400
    assert "output_config.format" in answer.json()["error"]["message"]
    both = ASK | {"output_config": {"format": schema}, "output_format": schema}
    assert post(echo_server, both, path).status_code == 200
    both["output_format"] = {"type": "json_schema", "schema": {"type": "string"}}
    assert post(echo_server, both, path).status_code == 400


def test_a_slow_stream_is_kept_alive_by_pings(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(
        server={"sse_keep_alive_s": 0.05}, engine={"echo": {"first_token_delay_s": 0.3}}
    )
    with server.anthropic_client() as client, client.messages.stream(**ASK) as stream:
        assert stream.get_final_text() == ECHO
    may_be_made = hold_tokens(server)
    ask = ASK | {"stream": True, "max_tokens": 1}
    lines = []
    with httpx2.stream("POST", f"{server.url}/v1/messages", json=ask, timeout=60) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if line == "event: ping":
                may_be_made.release()
    assert json.loads(lines[lines.index("event: ping") + 1][6:]) == {"type": "ping"}
    assert [line for line in lines if line.startswith("event: ")][-1] == "event: message_stop"


def test_closing_a_stream_ends_the_request(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 3}})
    with server.anthropic_client() as client, client.messages.stream(**ASK) as stream:
        next(iter(stream.text_stream))
    server.wait_idle()
    assert server.engine.num_aborted == 1


def test_models(client: anthropic.Anthropic) -> None:
    [model] = client.models.list()
    assert (model.id, model.display_name, model.type) == (MODEL, MODEL, "model")
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.models.retrieve("claude")
    assert caught.value.type == "not_found_error"


@pytest.mark.parametrize("stream", [False, True])
def test_what_claude_code_sends(echo_server: LiveServer, *, stream: bool) -> None:
    """The fields, headers and query of version 2.1.332, with texts made short."""
    cached = {"cache_control": {"type": "ephemeral"}}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    body = {
        "model": MODEL,
        "max_tokens": 32_000,
        "stream": stream,
        "system": [
            {"type": "text", "text": "You are a CLI."},
            {"type": "text", "text": "Be brief.", **cached},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>\nx\n</system-reminder>\n"},
                    {"type": "text", "text": "hi"},
                ],
            },
            {
                "role": "system",
                "content": [{"type": "text", "text": "# Environment", **cached}],
                "output_config": {"effort": "medium"},
            },
        ],
        "tools": [
            {
                "name": "Read",
                "description": "Reads a file.",
                "input_schema": schema | {"properties": {"path": {"type": "string"}}},
                "eager_input_streaming": True,
            },
            {"name": "Placeholder", "input_schema": schema, "defer_loading": True},
            {"name": f"mcp__{'x' * 100}", "description": "", "input_schema": schema, **cached},
        ],
        "metadata": {"user_id": "user_0_account__session_1"},
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
    }
    headers = {
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "anthropic-dangerous-direct-browser-access": "true",
        "anthropic-version": "2023-06-01",
        "x-api-key": "none",
        "x-app": "cli",
    }
    url = echo_server.url + "/v1/messages?beta=true"
    answer = httpx2.post(url, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    ignored = unquote(answer.headers["x-ignored-fields"])
    assert ignored == "messages[1].output_config, output_config.effort"
    counted = {name: body[name] for name in ("model", "messages", "tools", "system", "thinking")}
    count = post(echo_server, counted, "/v1/messages/count_tokens?beta=true").json()
    if stream:
        assert frames(answer)[0][1]["message"]["usage"]["input_tokens"] == count["input_tokens"]
    else:
        assert answer.json()["usage"]["input_tokens"] == count["input_tokens"]
