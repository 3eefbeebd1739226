import json
from typing import Any

import pytest
from internvl_server.core import (
    AnswerParams,
    Constraint,
    Detail,
    Grammar,
    ImageReference,
    JsonSchema,
    Message,
    Regex,
    TextPart,
)
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.request import ChatCompletionRequest, parse_chat_request
from internvl_server.protocol.parsing import ParsedRequest
from internvl_server.settings import LimitSettings, MediaSettings

LIMITS = LimitSettings()


TOOL = {"type": "function", "function": {"name": "f"}}


def parse(
    body: Any, limits: LimitSettings = LIMITS, *, ignore_unknown: bool = False
) -> ParsedRequest[ChatCompletionRequest]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_chat_request(data, limits, ignore_unknown=ignore_unknown, media=MediaSettings())


def parsed(**fields: Any) -> ParsedRequest[ChatCompletionRequest]:
    return parse({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields)


def with_content(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


def image(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": fields}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
        (with_content(None), "messages[0].content"),
        (with_content([{"type": "input_audio"}]), "messages[0].content[0].type"),
        (with_content("x", "system") | {"stop": ["a"] * 5}, "stop"),
        (with_content([{"type": "text"}]), "messages[0].content[0].text"),
        (with_content([{"type": "text", "text": 1}]), "messages[0].content[0].text"),
        (with_content([{"type": "text", "text": 1}], "system"), "messages[0].content[0].text"),
        (with_content([{"type": "text"}], "system"), "messages[0].content[0].text"),
        (with_content([{"type": "refusal", "refusal": "x"}]), "messages[0].content[0].type"),
        (with_content(image(url="")), "messages[0].content[1].image_url.url"),
        (with_content(image(url="x", detail="fine")), "messages[0].content[1].image_url.detail"),
        (with_content(image(url="x", size=2)), "messages[0].content[1].image_url.size"),
        (with_content(image(url="x", max_tiles=0)), "messages[0].content[1].image_url.max_tiles"),
        (with_content(image(url="x", max_tiles=41)), "messages[0].content[1].image_url.max_tiles"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": 3}, "stop"),
        ({"stop": [3]}, "stop[0]"),
        ({"stop": "x" * 8193}, "stop"),
        ({"stop": ["x", "x" * 8193]}, "stop[1]"),
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"service_tier": "priority"}, "service_tier"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choices": ["a"]}}, "structured_outputs.choices"),
        ({"tools": [TOOL | {"user": 1}]}, "tools[0].user"),
        ({"stream": True, "stream_options": {"~x": 1}}, "stream_options.~x"),
        ({"structured_outputs": {"choice": [1] * 300}}, "structured_outputs.choice[0]"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(**fields)
    assert caught.value.param == param
    assert "pydantic" not in caught.value.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b'{"model": NaN}', b'{"model": "\xff"}', b'{"a":' * 5000, b"null"],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse(body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": 3}}, "structured_outputs.json"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs.regex",
        ),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
    ],
)
def test_fields_that_contradict_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(**fields)
    assert caught.value.param == param


def test_sampling_defaults_are_openais() -> None:
    sampling = parsed().sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1, 1, 0, 0)
    assert sampling.max_tokens is None
    assert sampling.seed is None


def test_each_sampling_field_arrives() -> None:
    sampling = parsed(
        max_completion_tokens=7, temperature=0, top_p=0.5, top_k=-1, min_p=0.1,
        repetition_penalty=1.2, seed=-5, stop="END", presence_penalty=0.5, min_tokens=2,
        frequency_penalty=-0.5, logit_bias={"7": -100, "8": 1.5}, logprobs=True, top_logprobs=3,
    ).sampling  # fmt: skip
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.logit_bias == ((7, -100), (8, 1.5))
    assert (sampling.num_logprobs, sampling.min_tokens) == (3, 2)
    assert sampling.max_tokens == 7
    assert sampling.temperature == 0
    assert (sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0, 0.1)
    assert sampling.repetition_penalty == 1.2
    assert (sampling.seed, sampling.stop) == (-5, ("END",))


def test_each_answer_field_arrives() -> None:
    assert parsed().answer == AnswerParams()
    answer = parsed(
        n=3, stop_token_ids=[5, 6], ignore_eos=True, skip_special_tokens=False,
        include_stop_str_in_output=True,
    ).answer  # fmt: skip
    assert answer == AnswerParams(3, frozenset({5, 6}), True, False, True)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        (
            {"response_format": {"type": "json_object"}},
            JsonSchema({"type": "object"}, "response_format"),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"type": "string"}},
                }
            },
            JsonSchema({"type": "string"}, "response_format", is_strict=True),
        ),
        (
            {"structured_outputs": {"choice": ["a.b", "c"]}},
            Regex("(a\\.b)|(c)", "structured_outputs.choice"),
        ),
        (
            {"structured_outputs": {"regex": "[a-z]+"}},
            Regex("[a-z]+", "structured_outputs.regex"),
        ),
        (
            {"structured_outputs": {"grammar": 'root ::= "a"'}},
            Grammar('root ::= "a"', "structured_outputs.grammar"),
        ),
        (
            {"structured_outputs": {"json": '{"type": "null"}'}},
            JsonSchema({"type": "null"}, "structured_outputs.json", is_strict=True),
        ),
        (
            {"structured_outputs": {"json_object": True}},
            JsonSchema({"type": "object"}, "structured_outputs.json_object"),
        ),
    ],
)
def test_what_an_answer_must_be(fields: dict[str, Any], constraint: Constraint | None) -> None:
    assert parsed(**fields).sampling.constraint == constraint


def test_unknown_members_are_named_by_path_where_they_are_ignored() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]}],
        "stream_options": {"chunks": 3},
        "stream": True,
        "colour": 1,
    }
    done = parse(body, ignore_unknown=True)
    assert done.ignored == ("colour", "messages[0].content[0].cache", "stream_options.chunks")
    with pytest.raises(InvalidRequestError) as caught:
        parse(body | {"n": 0}, ignore_unknown=True)
    assert caught.value.param == "n"


@pytest.mark.parametrize("name", ["user", "text", "~list"])
def test_only_the_unknown_member_is_ignored_whatever_its_name(name: str) -> None:
    tools = [TOOL | {name: 1}]
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": tools}
    done = parse(body, ignore_unknown=True)
    assert done.ignored == (f"tools[0].{name}",)
    assert done.body.tools is not None
    assert [tool.function.name for tool in done.body.tools] == ["f"]


def test_conversation_keeps_order_roles_and_paths() -> None:
    body = parsed(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "sys"}]},
            {"role": "user", "content": image(url="data:,", detail="low", max_tiles=3)},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "And?"},
        ]
    )
    conversation = body.conversation
    assert [m.role for m in conversation.messages] == ["system", "user", "assistant", "user"]
    text, picture = conversation.messages[1].content
    assert text == TextPart("a")
    assert picture == ImageReference("data:,", Detail.LOW, 3, "messages[1].content[1].image_url")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_every_role_may_show_images_and_be_empty(role: str) -> None:
    for content in ("", [], [{"type": "text", "text": ""}]):
        [message] = parsed(messages=[{"role": role, "content": content}]).conversation.messages
        assert not "".join(part.text for part in message.content if isinstance(part, TextPart))
    [message] = parsed(messages=[{"role": role, "content": image(url="x")}]).conversation.messages
    assert [picture.url for picture in message.images] == ["x"]


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_content_that_is_null_is_refused_with_what_may_be(role: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": role, "content": None}]
    with pytest.raises(InvalidRequestError, match="it is null, as it may only be in") as caught:
        parsed(messages=messages)
    assert (caught.value.param, caught.value.code) == ("messages[1].content", "invalid_value")
    with pytest.raises(InvalidRequestError, match="Missing required") as caught:
        parsed(messages=[messages[0], {"role": role}])
    assert caught.value.param == "messages[1].content"


@pytest.mark.parametrize("answer", [{}, {"content": None}, {"content": []}, {"tool_calls": []}])
def test_an_answer_may_be_empty(answer: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant"} | answer]
    assert parsed(messages=messages).conversation.messages[1] == Message("assistant", ())


def test_reasoning_in_the_history_is_left_out_and_named() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = [thought, {"type": "text", "text": "yes"}]
    answers = [
        {"role": "assistant", "content": said, "reasoning_content": "hm"},
        {"role": "assistant", "content": "b", "reasoning": "hm", "thinking": "hm"},
    ]
    done = parse({"model": "m", "messages": answers}, ignore_unknown=True)
    assert [message.content for message in done.conversation.messages] == [
        (TextPart("yes"),), (TextPart("b"),),
    ]  # fmt: skip
    assert set(done.ignored) == {
        "messages[0].content[0].thinking", "messages[0].content[0].signature",
        "messages[0].reasoning_content", "messages[1].reasoning", "messages[1].thinking",
    }  # fmt: skip
    with pytest.raises(InvalidRequestError) as caught:
        parse({"model": "m", "messages": answers})
    assert caught.value.param in done.ignored
    own = {"role": "assistant", "content": "b", "reasoning_content": "hm"}
    strict = parse({"model": "m", "messages": [own]})
    assert strict.ignored == ("messages[0].reasoning_content",)


def test_limits_on_messages_and_parts_are_judged_before_they_are_looked_at() -> None:
    limits = LimitSettings(max_messages=1, max_parts=1)
    for fields in ({"messages": [0] * 2}, with_content([0] * 2), {"stop": [0] * 5}):
        body = {"model": "m", "messages": []} | fields
        with pytest.raises(InvalidRequestError, match="limit is"):
            parse(body, limits)


def test_the_parts_of_all_messages_are_limited_together() -> None:
    limits = LimitSettings(max_parts_per_request=3)
    message = {"role": "user", "content": [{"type": "text", "text": "a"}] * 2}
    assert parse({"model": "m", "messages": [message]}, limits)
    with pytest.raises(InvalidRequestError, match="'messages' has 4 content parts; the limit is 3"):
        parse({"model": "m", "messages": [message] * 2}, limits)


def test_an_answer_of_the_sdk_can_be_sent_back_as_history() -> None:
    from openai.types.chat import ChatCompletionMessage

    answer = ChatCompletionMessage(role="assistant", content="yes", refusal=None, annotations=[])
    history = answer.model_dump() | {"audio": None, "function_call": None, "tool_calls": None}
    part = {"type": "text", "text": "a", "image_url": None}
    body = parsed(messages=[{"role": "user", "content": [part], "name": None}, history])
    assert body.conversation.messages[1].content == (TextPart("yes"),)


@pytest.mark.parametrize("ignore_unknown", [True, False])
def test_a_body_that_is_wrong_everywhere_is_refused_without_a_list(ignore_unknown: bool) -> None:
    part = {"type": "image_url", "image_url": {"detail": 1, "max_tiles": "x"}}
    messages = [{"role": "user", "content": [part] * 64}] * 64
    body = json.dumps({"model": "m", "messages": messages}).encode()
    with pytest.raises(InvalidRequestError, match="more than 10000 places"):
        parse(body, ignore_unknown=ignore_unknown)


@pytest.mark.parametrize("content", [None, "", "yes", [{"type": "text", "text": "yes"}]])
def test_a_refusal_is_text_beside_any_content(content: Any) -> None:
    body = parsed(messages=[{"role": "assistant", "content": content, "refusal": "but"}])
    parts = body.conversation.messages[0].content
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    assert "".join(texts) == ("yesbut" if content else "but")


def test_a_half_surrogate_is_no_json() -> None:
    with pytest.raises(InvalidRequestError, match="surrogate"):
        parse(b'{"model": "\\ud800", "messages": []}')
