"""Constraints made of tools and formats."""

import pytest
from internvl_server.core import (
    CallableTool,
    Grammar,
    JsonSchema,
    Regex,
    Tool,
    ToolCalls,
    ToolChoice,
)
from internvl_server.core.conversation import NO_TOOLS
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.constraints import combine, tool_call_constraint

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("a", None, SCHEMA), Tool("b", None, SCHEMA, is_strict=True))
CALLS = ToolCalls((CallableTool("a", SCHEMA),))
ANSWER = JsonSchema({"type": "object"}, "text.format")


def test_arguments_must_fit_the_schema_of_a_strict_tool_and_be_an_object_for_others() -> None:
    assert tool_call_constraint(TOOLS, ToolChoice("auto")) == ToolCalls(
        (CallableTool("a", {"type": "object"}), CallableTool("b", SCHEMA, is_strict=True))
    )


def test_a_required_call_is_held_to_its_schema() -> None:
    choice = ToolChoice("required", ("a",), is_parallel=False)
    assert tool_call_constraint(TOOLS, choice) == ToolCalls(
        (CallableTool("a", SCHEMA),), is_required=True, is_parallel=False
    )


def test_there_is_no_constraint_where_nothing_can_be_called() -> None:
    assert tool_call_constraint(TOOLS, NO_TOOLS) is None
    assert tool_call_constraint((), ToolChoice("auto")) is None


def test_a_hint_leaves_any_text() -> None:
    required = ToolCalls(CALLS.tools, is_required=True)
    assert CALLS.is_hint
    assert not required.is_hint
    assert not ToolCalls(CALLS.tools, answer=SCHEMA).is_hint


def test_calls_or_a_schema() -> None:
    assert combine(None, None) is None
    assert combine(CALLS, None) is CALLS
    assert combine(None, ANSWER) is ANSWER
    either = ToolCalls(CALLS.tools, answer=ANSWER.schema, param="text.format")
    assert combine(CALLS, ANSWER) == either


def test_a_required_call_excludes_the_format() -> None:
    required = ToolCalls(CALLS.tools, is_required=True)
    assert combine(required, ANSWER) is required


@pytest.mark.parametrize("answer", [Regex("a", "p"), Grammar('root ::= "a"', "p")])
def test_only_a_schema_can_stand_beside_tools(answer: Regex | Grammar) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        combine(CALLS, answer)
    assert caught.value.param == "p"
