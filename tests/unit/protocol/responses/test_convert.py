import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import (
    ImageReference,
    JsonSchema,
    Message,
    TextPart,
    ToolCall,
    ToolCalls,
    ToolChoice,
    VideoReference,
)
from internvl_server.core.conversation import Detail
from internvl_server.errors import Field, InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.parsing import ParsedRequest
from internvl_server.protocol.responses.parse import (
    parse_input_tokens_request,
    parse_responses_request,
)
from internvl_server.protocol.responses.request import ResponsesRequest
from internvl_server.settings import LimitSettings, MediaSettings
from openai.types.responses import ResponseIncludable

URL = "data:image/png;base64,AAAA"
VIDEO_URL = "data:video/mp4;base64,AAAA"
MEDIA = MediaSettings(default_video_frames=5)
TOOL = {
    "type": "function",
    "name": "f",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}


def parse(**fields: Any) -> ParsedRequest[ResponsesRequest]:
    body = {"model": "m", "input": "hi"} | fields
    return parse_responses_request(json.dumps(body).encode(), LimitSettings(), media=MEDIA)


def messages(*items: Any, **fields: Any) -> tuple[Message, ...]:
    return parse(input=list(items), **fields).conversation.messages


def refusal(**fields: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**fields)
    return caught.value


def text(role: Any, *texts: str) -> Message:
    return Message(role, tuple(map(TextPart, texts)))


def call(call_id: str, arguments: str = "{}", **more: Any) -> dict[str, Any]:
    named = {"type": "function_call", "call_id": call_id, "name": "f"}
    return named | {"arguments": arguments} | more


def output(call_id: str, value: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def test_a_string_is_a_message_of_the_user_and_instructions_come_first() -> None:
    conversation = parse(instructions="be brief").conversation
    assert conversation.messages == (text("system", "be brief"), text("user", "hi"))
    assert parse(input="").conversation.messages == (text("user", ""),)


def test_messages_of_all_roles() -> None:
    made = messages(
        {"role": "developer", "content": "a"},
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "b"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
        {
            "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "phase": None,
            "content": [
                {"type": "output_text", "text": "d", "annotations": [], "logprobs": None},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {"role": "user", "content": "e"},
    )  # fmt: skip
    assert made == (
        text("system", "a"),
        text("system", "b"),
        text("user", "c"),
        text("assistant", "d", "no"),
        text("user", "e"),
    )


def test_pictures_keep_their_place_and_know_their_path() -> None:
    parts = [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": URL, "detail": "high", "file_id": None},
        {"type": "input_image", "image_url": URL, "max_tiles": 3},
    ]
    [message] = messages({"role": "user", "content": parts})
    assert message.content == (
        TextPart("a"),
        ImageReference(URL, Detail.HIGH, None, "input[0].content[1].image_url"),
        ImageReference(URL, Detail.AUTO, 3, "input[0].content[2].image_url"),
    )


def test_a_video_in_the_place_of_an_image_is_a_video() -> None:
    [message] = messages(
        {"role": "user", "content": [{"type": "input_image", "image_url": VIDEO_URL}]}
    )
    assert message.content == (VideoReference(VIDEO_URL, 5, "input[0].content[0].image_url"),)


def test_calls_of_one_turn_are_one_message_and_outputs_answer_them() -> None:
    made = messages(
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "I look."},
        call("1", '{"a": 1}', id="fc_1", status="completed"),
        call("2", ""),
        output("2", "two"),
        output("1", [{"type": "input_text", "text": "one"}, {"type": "input_image", "image_url": URL}]),
        call("3"),
        output("3", "three"),
    )  # fmt: skip
    assert made[1] == Message(
        "assistant",
        (TextPart("I look."),),
        (ToolCall("1", "f", '{"a": 1}'), ToolCall("2", "f", "{}")),
    )
    assert made[2] == Message("tool", (TextPart("two"),), tool_call_id="2")
    assert made[3].tool_call_id == "1"
    assert [type(part) for part in made[3].content] == [TextPart, ImageReference]
    assert made[3].images[0].param == "input[5].output[1].image_url"
    assert made[4] == Message("assistant", (), (ToolCall("3", "f", "{}"),))
    assert len(made) == 6


@pytest.mark.parametrize(
    "arguments",
    ["[]", "{", '{"city": "Ber', '{"a": NaN}', '{"city": "the "big" one"}', '{"a": "\\ud800"}'],
)
def test_calls_are_taken_back_as_they_were_written(arguments: str) -> None:
    name = 'f", "arguments": {}'
    [turn, one] = messages(call("", arguments) | {"name": name}, output("nobody", "x"))
    assert turn.tool_calls == (ToolCall("", name, arguments),)
    assert one == Message("tool", (TextPart("x"),), tool_call_id="nobody")


def test_arguments_may_be_an_object_or_missing() -> None:
    calls = [call("1") | {"arguments": {"a": "é"}}, call("2") | {"arguments": None}]
    [turn] = messages(*calls)
    assert [made.arguments for made in turn.tool_calls] == ['{"a": "é"}', "{}"]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_every_role_may_show_images_and_be_empty(role: str) -> None:
    assert messages({"role": role, "content": []})[0].content == ()
    image = {"type": "input_image", "image_url": URL}
    [message] = messages({"role": role, "content": [image]})
    assert [picture.param for picture in message.images] == ["input[0].content[0].image_url"]


def test_an_empty_answer_and_an_empty_output() -> None:
    made = messages({"role": "assistant", "content": None}, output("1", None), output("2", []))
    assert [message.role for message in made] == ["assistant", "tool", "tool"]


def test_reasoning_is_left_out_and_named() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    body = {"model": "m", "input": [{"role": "user", "content": "hi"}, reasoning, call("1")]}
    done = parse_responses_request(
        json.dumps(body).encode(), LimitSettings(), media=MEDIA, ignore_unknown=True
    )
    assert [message.role for message in done.conversation.messages] == ["user", "assistant"]
    assert done.ignored == ("input[1].encrypted_content",)
    strict = parse_responses_request(json.dumps(body).encode(), LimitSettings(), media=MEDIA)
    assert strict.ignored == done.ignored


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([call("1") | {"name": 1}], "input[0].name"),
        ([call("1") | {"arguments": [1]}], "input[0].arguments"),
        ([{"role": "user", "content": [{"type": "output_text", "text": "x"}]}],
         "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_image"}]}],
         "input[0].content[0].image_url"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": URL, "detail": "x"}]}],
         "input[0].content[0].detail"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": "a", "extra": 1}], "input[0].extra"),
        ([call("1", namespace="n")], "input[0].namespace"),
        ([{"type": ["message"]}], "input[0]"),
        ([{"type": {}}], "input[0]"),
        (["text"], "input[0]"),
        ([{"type": []}], "input[0]"),
        ([{"role": {}, "content": "x"}], "input[0]"),
        ([], "input"),
        ([{"type": "reasoning", "id": "rs_1"}], "input"),
    ],
)  # fmt: skip
def test_items_that_cannot_be_used_are_named(items: list[Any], param: str) -> None:
    assert refusal(input=items).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "compaction", "id": "cmp_1"}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {"input": [call("1"), output("1", [{"type": "input_file", "file_url": "u"}])]},
            "input[1].output[0].type",
        ),
        ({"tools": [TOOL, {"type": "mcp", "server_label": "x"}]}, "tools[1].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search_preview"}}, "tool_choice.type"),
    ],
)
def test_what_needs_a_store_or_a_service_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    error = refusal(**fields)
    assert isinstance(error, UnsupportedParameterError)
    assert error.param == param
    assert error.code is None


def test_tools_and_the_choice_among_them() -> None:
    other = {"type": "function", "name": "g", "description": "d", "parameters": None}
    body = parse(tools=[TOOL, other], parallel_tool_calls=False)
    strict, loose = body.conversation.tools
    assert (strict.name, strict.is_strict, loose.description) == ("f", True, "d")
    assert strict.parameters == TOOL["parameters"]
    assert (loose.parameters, loose.is_strict) == ({"type": "object"}, False)
    answer = body.answer
    assert answer.tool_choice == ToolChoice("auto", is_parallel=False)
    assert answer.tool_names == ("f", "g")
    constraint = body.sampling.constraint
    assert isinstance(constraint, ToolCalls)
    assert constraint.param == "tools"


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (None, ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("required", ("f",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            ToolChoice("auto", ("f",)),
        ),
    ],
)
def test_tool_choices(wire: Any, expected: ToolChoice) -> None:
    assert parse(tools=[TOOL], tool_choice=wire).answer.tool_choice == expected


def test_tools_that_may_not_be_called_are_not_in_the_prompt() -> None:
    assert parse(tools=[TOOL], tool_choice="none").conversation.tools == ()
    assert refusal(tools=[TOOL, TOOL], tool_choice="none").param == "tools[1].name"


def test_without_tools_there_is_no_call() -> None:
    assert parse(tools=[]).answer.tool_choice.mode == "none"


ALLOW_G = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, Field.TOOL_CHOICE),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": ALLOW_G}, "tool_choice.tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        (
            {"tools": [TOOL], "tool_choice": ALLOW_G | {"tools": ALLOW_G["tools"] * 1025}},
            "tool_choice.tools",
        ),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL] * 200}, "tools"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"include": ["reasoning.encrypted_content"] * 20_000}, "include"),
        ({"include": ["x"] * 20_000}, "include[0]"),
        ({"tools": [TOOL | {"allowed_callers": [0] * 20_000}]}, "tools[0].allowed_callers[0]"),
        (
            {"tools": [TOOL], "tool_choice": ALLOW_G | {"tools": [0] * 20_000}},
            "tool_choice.tools[0]",
        ),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"stop": ["x" * 8193]}, "stop[0]"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": dict.fromkeys(map(str, range(17)), 1)}, "metadata"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"role": "user", "content": "x"}] * 1025}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": ""}] * 513}]},
            "input[0].content",
        ),
    ],
)
def test_fields_that_cannot_be_used_are_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


@pytest.mark.parametrize("value", get_args(ResponseIncludable))
def test_whatever_the_sdk_may_include_is_accepted(value: str) -> None:
    assert parse(include=[value]).ignored == ()


def test_sampling_fields_and_their_defaults() -> None:
    plain = parse().sampling
    assert (plain.temperature, plain.top_p, plain.max_tokens) == (1.0, 1.0, None)
    assert (plain.num_logprobs, plain.constraint, plain.seed, plain.stop) == (None, None, None, ())
    made = parse(
        temperature=0, top_p=0.5, max_output_tokens=7, seed=-1, stop="x", top_k=-1, min_p=0.1,
        repetition_penalty=1.5, presence_penalty=1, frequency_penalty=-1, min_tokens=2,
    ).sampling  # fmt: skip
    assert (made.temperature, made.top_p, made.max_tokens) == (0, 0.5, 7)
    assert (made.seed, made.stop, made.top_k, made.min_p) == (-1, ("x",), 0, 0.1)
    penalties = (made.repetition_penalty, made.presence_penalty, made.frequency_penalty)
    assert penalties == (1.5, 1, -1)
    assert made.min_tokens == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"include": ["reasoning.encrypted_content"]}, None),
        ({"top_logprobs": 2}, 2),
        ({"top_logprobs": 0, "include": []}, None),
    ],
)
def test_log_probabilities(fields: dict[str, Any], expected: int | None) -> None:
    assert parse(**fields).sampling.num_logprobs == expected


def test_text_formats() -> None:
    def constraint(text_format: dict[str, Any]) -> object:
        return parse(text={"format": text_format}).sampling.constraint

    assert constraint({"type": "text"}) is None
    assert constraint({"type": "json_object"}) == JsonSchema({"type": "object"}, "text.format")
    schema = {"type": "object", "properties": {"ä": {"type": "integer"}}}
    made = constraint({"type": "json_schema", "name": "n", "schema": schema, "strict": True})
    assert made == JsonSchema(schema, "text.format", is_strict=True)


def test_unknown_members_are_named_where_they_are_ignored() -> None:
    item = {"role": "user", "content": [{"type": "input_text", "text": "x", "colour": 1}]}
    body = json.dumps({"model": "m", "input": [item], "hue": 1}).encode()
    parsed = parse_responses_request(body, LimitSettings(), media=MEDIA, ignore_unknown=True)
    assert parsed.ignored == ("hue", "input[0].content[0].colour")


NAMES = [
    "type", "role", "content", "text", "image_url", "call_id", "name", "arguments", "output", "id",
    "format", "schema", "parameters", "mode", "tools", "detail", "strict", "refusal",
]  # fmt: skip
WORDS = [
    "message", "user", "assistant", "system", "function_call", "function_call_output", "input_text",
    "input_image", "output_text", "refusal", "function", "allowed_tools", "json_schema", "auto",
    "item_reference", "f", "{}", URL,
]  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS))
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=24,
)
FIELDS = st.sampled_from(["input", "tools", "tool_choice", "text", "include", "metadata", "stop"])


def error_of(body: bytes, *, ignore_unknown: bool) -> InvalidRequestError | None:
    try:
        made = parse_responses_request(
            body, LimitSettings(), media=MEDIA, ignore_unknown=ignore_unknown
        )
        assert made.conversation.messages
    except InvalidRequestError as error:
        return error
    return None


@given(st.dictionaries(FIELDS, ANYTHING, max_size=4), st.booleans())
def test_any_json_is_converted_or_refused_by_name(fields: dict[str, Any], ignore: bool) -> None:
    body = json.dumps({"model": "m", "input": "hi"} | fields, allow_nan=True).encode()
    error = error_of(body, ignore_unknown=ignore)
    assert error is None or error.param or error.code == "invalid_json"


def test_a_format_beside_tools_is_either_of_them() -> None:
    body = {"tools": [TOOL], "text": {"format": {"type": "json_object"}}}
    either = parse(**body).sampling.constraint
    assert isinstance(either, ToolCalls)
    assert (either.answer, either.param) == ({"type": "object"}, "text.format")
    required = parse(**body, tool_choice="required").sampling.constraint
    assert isinstance(required, ToolCalls)
    assert required.answer is None


def test_a_text_format_and_structured_outputs_contradict_each_other() -> None:
    error = refusal(text={"format": {"type": "json_object"}}, structured_outputs={"regex": "a"})
    assert error.param == "structured_outputs.regex"


def test_counting_reads_the_prompt_as_answering_does() -> None:
    fields = {"input": "hi", "tools": [TOOL], "instructions": "be brief"}
    counted = parse_input_tokens_request(json.dumps(fields).encode(), LimitSettings(), media=MEDIA)
    answered = parse(**fields)
    assert counted.conversation == answered.conversation
    assert counted.sampling.constraint == answered.sampling.constraint
