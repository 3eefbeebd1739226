"""Tools of `/v1/chat/completions`: definitions, the choice among them, calls in the history."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from internvl_server.core import ToolCall
from internvl_server.errors import UnsupportedParameterError
from internvl_server.protocol.tools import (
    MAX_ALLOWED,
    CallArguments,
    Function,
    FunctionName,
    ToolMode,
    to_arguments,
)
from internvl_server.protocol.wire import Wire

__all__ = [
    "FunctionCall",
    "HistoryCall",
    "ToolChoiceField",
    "ToolDefinition",
    "ToolList",
    "chosen_tools",
    "to_tool_calls",
]


class ToolDefinition(Wire):
    """A function the model may call."""

    type: Literal["function"]
    function: Function


class FunctionReference(Wire):
    """The name of a function."""

    name: FunctionName


class NamedTool(Wire):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionReference


class AllowedTools(Wire):
    """The tools that may (`auto`) or must (`required`) be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(fail_fast=True, min_length=1, max_length=MAX_ALLOWED)]


class AllowedToolsChoice(Wire):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class FunctionCall(Wire):
    """The function of an earlier call and its arguments, as the model wrote them."""

    name: str
    arguments: CallArguments | None = None
    parsed_arguments: Any = None
    """The parsed arguments, which the SDK's message objects have when they are sent back."""


class HistoryCall(Wire):
    """A call the assistant made earlier."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """The call's index, which the SDK's message objects have when they were made from a stream."""


def _without_custom_tools(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    for index, tool in enumerate(value if isinstance(value, list) else ()):
        if isinstance(tool, dict) and tool.get("type") == "custom":
            raise _custom_tool(f"tools[{index}]")
    return value


def _without_custom_choice(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    if isinstance(value, dict) and value.get("type") == "custom":
        raise _custom_tool("tool_choice")
    return value


def _custom_tool(path: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(
        f"'{path}' is a custom tool; this server calls tools of type 'function'.",
        param=f"{path}.type",
    )


def _branch_of_choice(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return "~object" if isinstance(value, dict) else "~mode"


ToolList: TypeAlias = Annotated[list[ToolDefinition], BeforeValidator(_without_custom_tools)]
ToolChoiceField: TypeAlias = Annotated[
    Annotated[ToolMode, Tag("~mode")]
    | Annotated[
        Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")], Tag("~object")
    ],
    Discriminator(_branch_of_choice),
    BeforeValidator(_without_custom_choice),
]


def chosen_tools(
    choice: ToolMode | NamedTool | AllowedToolsChoice | None,
) -> tuple[ToolMode, list[tuple[str, str]]]:
    """The mode of a `tool_choice`, and the tools it names with the JSON paths of their names."""
    if isinstance(choice, NamedTool):
        return "required", [(choice.function.name, "tool_choice.function.name")]
    if isinstance(choice, AllowedToolsChoice):
        allowed = choice.allowed_tools
        path = "tool_choice.allowed_tools.tools[{}].function.name"
        return allowed.mode, [
            (t.function.name, path.format(i)) for i, t in enumerate(allowed.tools)
        ]
    return choice or "auto", []


def to_tool_calls(
    calls: Sequence[HistoryCall] | None, function_call: FunctionCall | None
) -> tuple[ToolCall, ...]:
    """The calls of an assistant's message, from its fields `tool_calls` and `function_call`."""
    functions = [(call.id, call.function) for call in calls or ()]
    functions += [("", function_call)] if function_call is not None else []
    return tuple(
        ToolCall(call_id, function.name, to_arguments(function.arguments))
        for call_id, function in functions
    )
