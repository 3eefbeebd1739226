"""Schemas that the engine does not enforce completely: the finished answer is checked."""

import json
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel, Field

from tests.live_server import LiveServer

MODEL = "tiny"
ASK: Any = [{"role": "user", "content": "hello"}]
# The echo engine answers with equal items.
TWINS = {
    "type": "object",
    "properties": {
        "a": {
            "type": "array",
            "items": {"const": "x"},
            "minItems": 2,
            "maxItems": 2,
            "uniqueItems": True,
        }
    },
    "required": ["a"],
    "additionalProperties": False,
}
WRONG = '{"a": ["x", "x"]}'
FITTING = TWINS | {"properties": {"a": {"type": "array", "uniqueItems": True, "maxItems": 0}}}


class Twins(BaseModel):
    a: set[Literal["x"]] = Field(min_length=2, max_length=2)


def assert_incomplete(text: str) -> None:
    assert WRONG.startswith(text)
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def schema_format(schema: Any, *, strict: bool) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}


def body(schema: Any, *, strict: bool, **fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL, "messages": ASK, "response_format": schema_format(schema, strict=strict), **fields
    }  # fmt: skip


def test_the_keyword_is_named_in_a_header(echo_server: LiveServer) -> None:
    response = echo_server.post(body(FITTING, strict=True))
    assert "'uniqueItems'" in response.headers["x-warnings"]
    [choice] = response.json()["choices"]
    assert choice["message"]["content"] == '{"a": []}'
    assert choice["message"]["refusal"] is None
    assert "schema_violation" not in choice


def test_what_is_enforced_has_no_header(echo_server: LiveServer) -> None:
    response = echo_server.post(body({"type": "object"}, strict=True))
    assert "x-warnings" not in response.headers


def test_a_strict_violation_is_a_refusal(echo_server: LiveServer) -> None:
    [choice] = echo_server.post(body(TWINS, strict=True)).json()["choices"]
    assert choice["message"]["content"] is None
    assert "uniqueItems" in choice["message"]["refusal"]
    assert choice["finish_reason"] == "stop"


def test_another_violation_is_named_beside_the_answer(echo_server: LiveServer) -> None:
    [choice] = echo_server.post(body(TWINS, strict=False)).json()["choices"]
    assert choice["message"]["content"] == WRONG
    assert choice["message"]["refusal"] is None
    assert "uniqueItems" in choice["schema_violation"]


def test_a_stream_that_is_refused_never_was_complete_json(echo_server: LiveServer) -> None:
    stream = echo_server.client().chat.completions.create(**body(TWINS, strict=True, stream=True))
    text, refusal, reasons = "", "", []
    for chunk in stream:
        [choice] = chunk.choices
        text += choice.delta.content or ""
        refusal += choice.delta.refusal or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
    assert_incomplete(text)
    assert "uniqueItems" in refusal
    assert reasons == ["stop"]


@pytest.mark.parametrize(("schema", "text"), [(FITTING, '{"a": []}'), (TWINS, WRONG)], ids=str)
def test_a_stream_that_is_not_refused_is_complete(
    echo_server: LiveServer, schema: Any, text: str
) -> None:
    is_fitting = schema is FITTING
    fields = body(schema, strict=is_fitting, stream=True)
    chunks = list(echo_server.client().chat.completions.create(**fields))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    last = chunks[-1].choices[0].model_dump()
    assert last["finish_reason"] == "stop"
    assert ("schema_violation" in last) == (not is_fitting)


def test_an_answer_that_is_cut_is_not_refused(echo_server: LiveServer) -> None:
    [choice] = echo_server.post(body(TWINS, strict=True, max_tokens=8)).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert WRONG.startswith(choice["message"]["content"])
    assert choice["message"]["content"]


def test_the_sdk_s_own_helpers(echo_server: LiveServer) -> None:
    client = echo_server.client()
    answer = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Twins)
    assert answer.choices[0].message.parsed is None
    assert "uniqueItems" in str(answer.choices[0].message.refusal)
    parsed = client.responses.parse(model=MODEL, input="hello", text_format=Twins)
    assert parsed.output_parsed is None
    with client.responses.stream(model=MODEL, input="hello", text_format=Twins) as events:
        assert "response.refusal.done" in [event.type for event in events]
    with client.chat.completions.stream(model=MODEL, messages=ASK, response_format=Twins) as stream:
        assert "refusal.done" in [event.type for event in stream]
    assert stream.get_final_completion().choices[0].message.parsed is None


def calls_body(*, strict: bool, **fields: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": TWINS, "strict": strict}
    return {
        "model": MODEL, "messages": ASK, "tools": [{"type": "function", "function": function}],
        "tool_choice": "required", **fields,
    }  # fmt: skip


def test_a_strict_call_that_violates_its_schema_is_refused(echo_server: LiveServer) -> None:
    response = echo_server.post(calls_body(strict=True))
    assert "'uniqueItems'" in response.headers["x-warnings"]
    [choice] = response.json()["choices"]
    assert "tool_calls" not in choice["message"]
    assert "uniqueItems" in choice["message"]["refusal"]
    assert choice["finish_reason"] == "stop"


def test_another_call_is_passed_on_and_its_violation_named(echo_server: LiveServer) -> None:
    [choice] = echo_server.post(calls_body(strict=False)).json()["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == WRONG
    assert choice["finish_reason"] == "tool_calls"
    assert "uniqueItems" in choice["schema_violation"]


def test_a_streamed_call_that_is_refused_never_was_complete_json(echo_server: LiveServer) -> None:
    stream = echo_server.client().chat.completions.create(**calls_body(strict=True, stream=True))
    choices = [chunk.choices[0] for chunk in stream]
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert_incomplete("".join(call.function.arguments or "" for call in calls))
    assert "uniqueItems" in "".join(choice.delta.refusal or "" for choice in choices)
    assert choices[-1].finish_reason == "stop"


def responses_body(*, strict: bool, **fields: Any) -> dict[str, Any]:
    text = {"type": "json_schema", "name": "x", "schema": TWINS, "strict": strict}
    return {"model": MODEL, "input": "hello", "text": {"format": text}, **fields}


def test_a_response_is_refused(echo_server: LiveServer) -> None:
    client = echo_server.client()
    response = client.responses.create(**responses_body(strict=True))
    [message] = response.output
    [part] = message.content
    assert part.type == "refusal"
    assert "uniqueItems" in part.refusal
    assert response.status == "completed"
    response = client.responses.create(**responses_body(strict=False))
    assert response.output_text == WRONG
    assert "uniqueItems" in response.output[0].model_dump()["schema_violation"]


def test_a_streamed_response_is_refused(echo_server: LiveServer) -> None:
    with echo_server.client().responses.create(
        **responses_body(strict=True, stream=True)
    ) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert_incomplete(text)
    kinds = [event.type for event in events]
    assert "response.output_text.done" not in kinds
    assert kinds.index("response.refusal.delta") < kinds.index("response.refusal.done")
    [message] = events[-1].response.output
    assert [part.type for part in message.content] == ["refusal"]


def test_a_streamed_response_with_a_refused_call(echo_server: LiveServer) -> None:
    tool = {"type": "function", "name": "f", "parameters": TWINS, "strict": True}
    stream = echo_server.client().responses.create(
        model=MODEL, input="hello", tools=[tool], tool_choice="required", stream=True
    )
    last = list(stream)[-1].response
    assert [item.type for item in last.output] == ["function_call", "message"]
    assert last.output[0].status == "incomplete"
    assert_incomplete(last.output[0].arguments)


def test_completions_are_refused(echo_server: LiveServer) -> None:
    answer = echo_server.client().completions.create(
        model=MODEL, prompt="x", max_tokens=99, extra_body={"structured_outputs": {"json": TWINS}}
    )
    assert answer.choices[0].text == ""
    assert "uniqueItems" in answer.choices[0].model_dump()["refusal"]


def test_messages_are_refused(echo_server: LiveServer) -> None:
    client = anthropic.Anthropic(base_url=echo_server.url, api_key="x", max_retries=0)
    fields: Any = {
        "model": MODEL, "max_tokens": 99, "messages": ASK,
        "output_config": {"format": {"type": "json_schema", "schema": TWINS}},
    }  # fmt: skip
    message = client.messages.create(**fields)
    assert message.stop_reason == "refusal"
    assert "uniqueItems" in message.content[0].text
    assert message.stop_details.explanation == message.content[0].text
    with client.messages.stream(**fields) as stream:
        text, *_, notice = stream.get_final_message().content
    assert stream.get_final_message().stop_reason == "refusal"
    assert_incomplete(text.text)
    assert "uniqueItems" in notice.text


def test_a_call_of_a_message_that_violates_its_schema(echo_server: LiveServer) -> None:
    client = echo_server.anthropic_client()
    tool: Any = {"name": "f", "input_schema": TWINS}
    fields: Any = {
        "model": MODEL, "max_tokens": 99, "messages": ASK, "tool_choice": {"type": "any"},
    }  # fmt: skip
    message = client.messages.create(**fields, tools=[tool])
    assert message.content[0].input == json.loads(WRONG)
    assert "uniqueItems" in message.model_extra["schema_violation"]
    strict = client.messages.create(**fields, tools=[tool | {"strict": True}])
    assert [block.type for block in strict.content] == ["text"]
    assert strict.stop_details.explanation == strict.content[0].text
