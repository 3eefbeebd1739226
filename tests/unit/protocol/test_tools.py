import json
import sys
from typing import Annotated, Any

import pytest
from internvl_server.core import Conversation, Message, TextPart, Tool, ToolCall, ToolChoice
from internvl_server.errors import Field as RequestField
from internvl_server.errors import InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.chat.request import parse_chat_request
from internvl_server.protocol.chat.tools import ToolChoiceField, ToolList, chosen_tools
from internvl_server.protocol.limits import check_lists
from internvl_server.protocol.parsing import validate
from internvl_server.protocol.tools import (
    read_arguments,
    read_begun_arguments,
    to_tool_choice,
    to_tools,
)
from internvl_server.protocol.wire import Wire
from internvl_server.settings import LimitSettings, MediaSettings
from pydantic import Field

LIMITS = LimitSettings()
NO_TOOLS = ToolChoice("none")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Body(Wire):
    """The three fields as a request has them."""

    tools: ToolList | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: Annotated[bool | None, Field()] = None


def function(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | fields}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [function(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def parsed(**fields: Any) -> tuple[tuple[Tool, ...], ToolChoice]:
    check_lists(fields, LIMITS)
    body, _ = validate(Body, fields)
    tools = to_tools([t.function for t in body.tools or ()], "tools[{}].function.name")
    mode, named = chosen_tools(body.tool_choice)
    return tools, to_tool_choice(mode, named, tools, parallel=body.parallel_tool_calls)


def test_tools_arrive_in_order_with_all_they_say() -> None:
    tools, _ = parsed(
        tools=[function("a", description="Ä", parameters=SCHEMA, strict=True), function("b-_9")]
    )
    assert tools == (
        Tool("a", "Ä", SCHEMA, is_strict=True),
        Tool("b-_9", None, {"type": "object"}),
    )


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ({}, "tools"),
        ([7], "tools[0]"),
        ([{"function": {"name": "f"}}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].function"),
        ([function(), {"type": "web_search"}], "tools[1].type"),
        ([function("")], "tools[0].function.name"),
        ([function("a b")], "tools[0].function.name"),
        ([function("a\n")], "tools[0].function.name"),
        ([function("x" * 65)], "tools[0].function.name"),
        ([function(description=1)], "tools[0].function.description"),
        ([function(parameters=[])], "tools[0].function.parameters"),
        ([function(strict="yes")], "tools[0].function.strict"),
        ([function(returns={})], "tools[0].function.returns"),
        ([function("a"), function("b"), function("a")], "tools[2].function.name"),
        ([function()] * 129, "tools"),
    ],
)
def test_what_is_wrong_with_tools_is_named(tools: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(tools=tools)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [function(), {"type": "custom", "custom": {"name": "x"}}]}, "tools[1].type"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
    ],
)
def test_custom_tools_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        parsed(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("tool_choice", "choice"),
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", NO_TOOLS),
        ("required", ToolChoice("required")),
        (function("b"), ToolChoice("required", ("b",))),
        (allowed("auto", "b", "a", "b"), ToolChoice("auto", ("b", "a"))),
        (allowed("required", "a"), ToolChoice("required", ("a",))),
    ],
)
@pytest.mark.parametrize("is_parallel", [None, True, False])
def test_each_choice_arrives(
    tool_choice: Any, choice: ToolChoice, is_parallel: bool | None
) -> None:
    tools = [function("a"), function("b")]
    _, got = parsed(tools=tools, tool_choice=tool_choice, parallel_tool_calls=is_parallel)
    assert got == ToolChoice(choice.mode, choice.names, is_parallel is not False)


@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize("tool_choice", [None, "none", "auto"])
def test_without_tools_nothing_is_called(tools: Any, tool_choice: Any) -> None:
    assert parsed(tools=tools, tool_choice=tool_choice) == ((), NO_TOOLS)


@pytest.mark.parametrize(
    ("tool_choice", "param"),
    [
        ("any", "tool_choice"),
        (3, "tool_choice"),
        ({}, "tool_choice.type"),
        ({"type": "mcp"}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "function": {}}, "tool_choice.function.name"),
        (function("g"), "tool_choice.function.name"),
        (allowed("auto"), "tool_choice.allowed_tools.tools"),
        (allowed("none", "f"), "tool_choice.allowed_tools.mode"),
        (allowed("auto", "f", "g"), "tool_choice.allowed_tools.tools[1].function.name"),
    ],
)
def test_what_is_wrong_with_a_choice_is_named(tool_choice: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(tools=[function("f")], tool_choice=tool_choice)
    assert caught.value.param == param


@pytest.mark.parametrize("tool_choice", ["required", function("f"), allowed("auto", "f")])
def test_a_call_cannot_be_asked_for_without_tools(tool_choice: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(tool_choice=tool_choice)
    assert caught.value.param is RequestField.TOOL_CHOICE


def call(arguments: Any = "{}", call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    made = {"name": "f", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": made} | fields


def conversed(*messages: dict[str, Any]) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}, *messages]}
    parsed = parse_chat_request(json.dumps(body).encode(), LIMITS, media=MediaSettings())
    return parsed.conversation


def assistant(*calls: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)} | fields


def test_calls_and_their_results_arrive() -> None:
    conversation = conversed(
        assistant(call('{"a":1, "é": "\\u00e9"}'), call("", "c2"), content=None),
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
    )
    _, made, second, first = conversation.messages
    assert made.content == ()
    assert made.tool_calls == (
        ToolCall("c1", "f", '{"a":1, "é": "\\u00e9"}'),
        ToolCall("c2", "f", "{}"),
    )
    assert (second.tool_call_id, first.tool_call_id) == ("c2", "c1")


def test_an_answer_with_calls_of_the_sdk_can_be_sent_back() -> None:
    from openai.types.chat import ChatCompletionMessage

    answer = ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call('{"a": 1}')]}
    )
    assert conversed(answer.model_dump()).messages[1].tool_calls[0].arguments == '{"a": 1}'


def test_the_message_of_a_stream_of_the_sdk_can_be_sent_back() -> None:
    """As openai 3.50 sends what `chat.completions.stream` put together."""
    made = call('{"a": 1}', index=0)
    made["function"]["parsed_arguments"] = {"a": 1}
    empty = dict.fromkeys(["content", "refusal", "annotations", "audio", "function_call"])
    conversation = conversed(assistant(made, parsed={"a": 1}, **empty))
    assert conversation.messages[1].tool_calls == (ToolCall("c1", "f", '{"a": 1}'),)


def test_an_empty_list_of_calls_says_nothing() -> None:
    assert conversed(assistant(content="yes")).messages[1].tool_calls == ()


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([assistant(call(type="custom"))], "messages[1].tool_calls[0].type"),
        ([assistant({"id": "c1"})], "messages[1].tool_calls[0].function"),
        ([assistant(call([1]))], "messages[1].tool_calls[0].function.arguments"),
        ([assistant(call(1))], "messages[1].tool_calls[0].function.arguments"),
        ([assistant(call(place=0))], "messages[1].tool_calls[0].place"),
        ([assistant(*[call()] * 129)], "messages[1].tool_calls"),
        ([{"role": "user", "content": "x", "tool_calls": [call()]}], "messages[1].tool_calls"),
    ],
)
def test_what_is_wrong_with_a_history_of_calls_is_named(
    messages: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        conversed(*messages)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "text",
    [
        "[1]", '{"a": ', '{"a": NaN}', '{"a": "\\ud800"}', '{"a": ' + "[" * 5000,
        '{"a": ' + "9" * 5000 + "}", '{"city": "the "big" one"}', "no JSON at all",
    ],
)  # fmt: skip
def test_arguments_are_taken_as_they_were_written(text: str) -> None:
    assert conversed(assistant(call(text))).messages[1].tool_calls[0].arguments == text


def test_calls_of_other_programs_are_taken() -> None:
    bare = {"function": {"name": "a.b", "arguments": {"é": "x"}}}
    turn = conversed(assistant(bare, call(None))).messages[1]
    assert turn.tool_calls == (ToolCall("", "a.b", '{"é": "x"}'), ToolCall("c1", "f", "{}"))


def test_the_older_form_of_calls_is_taken() -> None:
    called = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": "{"},
    }
    result = {"role": "function", "name": "f", "content": "42"}
    _, turn, answer = conversed(called, result).messages
    assert turn.tool_calls == (ToolCall("", "f", "{"),)
    assert answer == Message("tool", (TextPart("42"),))


@pytest.mark.parametrize("fields", [{}, {"tool_call_id": "c9"}, {"tool_call_id": "c1"}])
def test_results_are_taken_wherever_they_stand(fields: dict[str, Any]) -> None:
    result = {"role": "tool", "content": None} | fields
    _, first, _, last = conversed(result, assistant(call()), result).messages
    expected = Message("tool", (TextPart(""),), tool_call_id=fields.get("tool_call_id", ""))
    assert first == last == expected


def test_text_that_counts_includes_calls_and_tools() -> None:
    one = conversed(assistant(call('{"a": 1}')))
    called = one.messages[1].tool_calls[0]
    assert one.num_text_chars == sum(map(len, ("hi", called.id, called.name, '{"a": 1}')))
    tool = Tool("name", "description", {})
    answered = Message("tool", (TextPart("text"),), tool_call_id="id")
    assert Conversation((answered,), (tool,)).num_text_chars == len("namedescription{}textid")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000])
def test_arguments_can_be_written_whatever_numbers_they_have(number: str) -> None:
    value = read_arguments(f'{{"x": {number}}}')
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize("text", ["", '{"x": ', '{"x": ' + "[" * 5000])
def test_arguments_that_were_cut_off_have_no_value(text: str) -> None:
    assert read_arguments(text) is None


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        ("", {}),
        ("[1, 2", {}),
        ('{"a', {}),
        ('{"a": "long', {}),
        ('{"a": "b", "c": [1, {"d": tr', {"a": "b", "c": [1, {}]}),
        ('{"a": ' + "[" * 5000, {}),
        ('{"a": 1e999, "b', {"a": sys.float_info.max}),
    ],
)
def test_of_arguments_that_were_cut_off_the_members_so_far_are_kept(
    text: str, begun: dict[str, Any]
) -> None:
    assert read_begun_arguments(text) == begun
