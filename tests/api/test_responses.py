"""`/v1/responses` with the real SDK, strict validation on, against the whole server with the echo engine."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from internvl_server.protocol.responses.events import ResponseWriter
from openai.types.responses import Response

from tests.live.test_streams import asked, hold_tokens, wait_until
from tests.live_server import LiveServer

MODEL = "tiny"
# The echo engine repeats the prompt: instructions of one letter keep that short.
ASK: dict[str, Any] = {"model": MODEL, "instructions": "s", "input": "hello"}
ECHO = "system\ns\nuser\nhello\nassistant\n"


@pytest.fixture
def client(echo_server: LiveServer) -> Iterator[openai.OpenAI]:
    with echo_server.client() as made:
        yield made


def post(server: LiveServer, body: Any, path: str = "/v1/responses") -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, timeout=60)


def test_a_whole_response(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASK)
    assert response.output_text == ECHO
    assert (response.status, response.model, response.object) == ("completed", MODEL, "response")
    assert response.id.startswith("resp_")
    assert response.output[0].id is not None
    assert response.output[0].id.startswith("msg_")
    chat = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
    )
    assert response.usage is not None
    assert chat.usage is not None
    counts = (response.usage.input_tokens, response.usage.output_tokens)
    assert counts == (chat.usage.prompt_tokens, chat.usage.completion_tokens)


def test_stream_and_whole_response_agree(client: openai.OpenAI) -> None:
    ask = ASK | {"input": "héllo 世界 🙂"}
    events = list(client.responses.create(**ask, stream=True))
    whole = client.responses.create(**ask)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[1].type) == ("response.created", "response.in_progress")
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    assert "世界 🙂" in text
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


def test_the_sdks_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(**ASK) as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == ECHO


async def test_the_async_client(echo_server: LiveServer) -> None:
    async with echo_server.async_client() as client:
        whole = await client.responses.create(**ASK)
        events = [event async for event in await client.responses.create(**ASK, stream=True)]
        async with client.responses.stream(**ASK) as stream:
            final = await stream.get_final_response()
    assert whole.output_text == final.output_text == ECHO
    assert events[-1].type == "response.completed"


def test_raw_responses(client: openai.OpenAI, echo_server: LiveServer) -> None:
    raw = client.responses.with_raw_response.create(**ASK)
    assert raw.headers["x-request-id"]
    assert raw.parse().output_text == ECHO
    body = post(echo_server, ASK).json()
    Response.model_validate(body, strict=True)
    assert body["store"] is False


def test_frames_are_named_events_and_the_last_is_the_response(echo_server: LiveServer) -> None:
    answer = post(echo_server, ASK | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.strip().split("\n\n")
    assert all(frame.startswith("event: response.") for frame in frames)
    assert all('"sequence_number":' in frame for frame in frames)
    assert frames[-1].startswith("event: response.completed\ndata: {")
    assert "[DONE]" not in answer.text


def test_a_slow_stream_is_kept_alive(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"sse_keep_alive_s": 0.05})
    may_be_made = hold_tokens(server)
    ask = ASK | {"stream": True, "max_output_tokens": 1}
    events = []
    with httpx2.stream("POST", f"{server.url}/v1/responses", json=ask, timeout=60) as answer:
        for line in answer.iter_lines():
            if line == ": ping":
                may_be_made.release()
            if line.startswith("event: "):
                events.append(line)
    assert events[-1] == "event: response.incomplete"


def test_a_response_that_reaches_its_limit_is_incomplete(client: openai.OpenAI) -> None:
    ask = ASK | {"max_output_tokens": 3}
    response = client.responses.create(**ask)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.max_output_tokens == 3
    last = list(client.responses.create(**ask, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == response.output_text


def test_extensions(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **ASK, extra_body={"stop": ["hel"], "top_k": 5, "seed": -1, "min_p": 0.1}
    )
    assert response.output_text == "system\ns\nuser\n"
    assert response.status == "completed"


def test_log_probabilities(client: openai.OpenAI) -> None:
    ask = ASK | {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = client.responses.create(**ask)
    [part] = whole.output[0].content
    assert part.logprobs
    assert "".join(entry.token for entry in part.logprobs) == ECHO
    assert bytes(b for entry in part.logprobs for b in entry.bytes).decode() == ECHO
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) <= 2 for entry in part.logprobs)
    events = list(client.responses.create(**ask, stream=True))
    streamed = [e.logprobs for e in events if e.type == "response.output_text.delta"]
    assert [entry.token for entries in streamed for entry in entries] == [
        entry.token for entry in part.logprobs
    ]
    plain = client.responses.create(**ASK)
    assert plain.output[0].content[0].logprobs == []


def test_many_log_probabilities_are_repeated_off_the_event_loop(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last four events of a stream have those of the whole answer."""
    threads: dict[str, set[str]] = {}
    write = ResponseWriter._frame

    def noted(self: ResponseWriter, event: dict[str, Any]) -> bytes:
        threads.setdefault(event["type"], set()).add(threading.current_thread().name)
        return write(self, event)

    monkeypatch.setattr(ResponseWriter, "_frame", noted)
    ask = ASK | {
        "input": "hello " * 200, "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    }  # fmt: skip
    [whole] = client.responses.create(**ask).output[0].content
    events = list(client.responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    *_, text, part, item, last = events
    assert len(whole.logprobs) > 200
    for repeated in (text, part.part, item.item.content[0], last.response.output[0].content[0]):
        assert repeated.text == whole.text
        assert [entry.to_dict() for entry in repeated.logprobs] == [
            entry.to_dict() for entry in whole.logprobs
        ]
    [of_first], [of_last] = threads["response.created"], threads[last.type]
    assert of_last.startswith("offload")
    assert of_first != of_last


def test_output_goes_back_in_as_history(client: openai.OpenAI) -> None:
    with client.responses.stream(**ASK | {"max_output_tokens": 6}) as stream:
        cut = list(stream)[-1].response
    first = client.responses.parse(**ASK)
    again = client.responses.create(
        model=MODEL,
        instructions="s",
        input=[
            {"role": "user", "content": "hello"},
            *first.output,
            {"role": "user", "content": [{"type": "input_text", "text": "more"}]},
            *cut.output,
            {"role": "user", "content": "end"},
        ],
    )
    assert again.output_text.startswith(f"{ECHO}{ECHO}\nuser\nmore\nassistant\n{cut.output_text}")


def test_pictures_count_as_in_chat_and_before_the_request(
    client: openai.OpenAI, picture_url: Callable[..., str]
) -> None:
    url = picture_url(900, 900)
    for detail in ("low", "high"):
        image = {"type": "input_image", "image_url": url, "detail": detail}
        items = [{"role": "user", "content": [image, {"type": "input_text", "text": "What?"}]}]
        counted = client.responses.input_tokens.count(model=MODEL, input=items)
        made = client.responses.create(model=MODEL, input=items, max_output_tokens=1)
        part = {"type": "image_url", "image_url": {"url": url, "detail": detail}}
        chat = client.chat.completions.create(
            model=MODEL,
            max_tokens=1,
            messages=[{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}],
        )
        assert made.usage is not None
        assert chat.usage is not None
        assert counted.object == "response.input_tokens"
        assert counted.input_tokens == made.usage.input_tokens == chat.usage.prompt_tokens
        details = made.usage.model_dump()["input_tokens_details"]
        assert details["image_tokens"] > 0
        assert details["images"] == chat.usage.model_dump()["prompt_tokens_details"]["images"]


def test_pictures_of_tools_are_looked_at(
    client: openai.OpenAI, picture_url: Callable[..., str]
) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "camera", "arguments": "{}"}
    output: dict[str, Any] = {"type": "function_call_output", "call_id": "c"}
    picture = {"type": "input_image", "image_url": picture_url(), "detail": "low"}
    items = [{"role": "user", "content": "look"}, call, output | {"output": [picture]}]
    response = client.responses.create(model=MODEL, input=items, max_output_tokens=1)
    assert response.usage is not None
    assert len(response.usage.model_dump()["input_tokens_details"]["images"]) == 1
    broken = output | {"output": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=[*items[:2], broken])
    assert caught.value.param == "input[2].output[0].image_url"


def test_counting_needs_no_model_and_refuses_what_creating_refuses(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(input="hello", instructions="s")
    made = client.responses.create(**ASK)
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.input_tokens.count(input="x", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.input_tokens.count(input="x", model="gpt-4o")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"store": True}, "unsupported_parameter", "store"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_parameter",
         "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
         "missing_required_parameter", "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x:y"}]}]},
         "invalid_image_url", "input[0].content[0].image_url"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"max_output_tokens": 10**6}, "context_length_exceeded", "input"),
        ({"input": "a " * 10_000}, "context_length_exceeded", "input"),
        ({"top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nonsense"}}}},
         "invalid_request", "text.format"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_name_the_field(
    client: openai.OpenAI, fields: dict[str, Any], code: str, param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASK | fields, stream=stream)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert "`max_tokens`" not in caught.value.message


def test_the_model_must_be_the_served_one(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(**ASK | {"model": "gpt-4o"})
    assert caught.value.param == "model"


def test_input_is_needed(echo_server: LiveServer) -> None:
    error = post(echo_server, {"model": MODEL}).json()["error"]
    assert (error["code"], error["param"]) == ("missing_required_parameter", "input")


def test_nothing_is_stored(client: openai.OpenAI) -> None:
    made = client.responses.create(**ASK, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_failing_engine_fails_the_response(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 3}})
    with server.client() as client:
        events = list(client.responses.create(**ASK, stream=True))
        with pytest.raises(openai.InternalServerError, match="echo engine failed"):
            client.responses.create(**ASK)
    last = events[-1]
    assert last.type == "response.failed"
    assert last.sequence_number == len(events) - 1
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert "echo engine failed" in last.response.error.message
    assert last.response.output_text == "sys"
    server.wait_idle()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(
    start_server: Callable[..., LiveServer], stream: bool
) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 3}})
    if stream:
        events = server.client().responses.create(**ASK, stream=True)
        next(event for event in events if event.type == "response.output_text.delta")
        events.close()
    else:
        asked(server, "/v1/responses", **ASK).close()
    wait_until(lambda: server.engine.num_aborted == 1)
    server.wait_idle()
    assert server.engine.num_aborted == 1
    assert server.gate.num_in_flight == 0


def test_errors_of_later_stages_speak_this_dialect(echo_server: LiveServer) -> None:
    error = post(echo_server, ASK | {"max_output_tokens": 10**6}).json()["error"]
    assert "The prompt has " in error["message"]
    assert "lower 'max_output_tokens'" in error["message"]
    assert "messages" not in error["message"]


def test_a_clients_words_are_not_renamed(echo_server: LiveServer) -> None:
    tool = {"type": "function", "name": "max_tokens", "parameters": {}}
    fields = {"tools": [tool], "tool_choice": {"type": "function", "name": "messages"}}
    error = post(echo_server, ASK | fields).json()["error"]
    assert "'messages'" in error["message"]
