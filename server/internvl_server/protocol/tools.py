"""Tools on the wire and in our words: definitions, the choice among them, calls in the history."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import from_json

from internvl_server.core import Tool, ToolCall, ToolChoice
from internvl_server.errors import InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.wire import Wire

__all__ = [
    "MAX_ALLOWED",
    "FunctionName",
    "HistoryCall",
    "ToolChoiceField",
    "ToolDefinition",
    "ToolList",
    "to_arguments",
    "to_tool_calls",
    "to_tool_choice",
    "to_tools",
]

MAX_ALLOWED = 1024

FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(Wire):
    """What a function is called, does and takes; `parameters` is a JSON schema of an object."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Wire):
    """A function the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionReference(Wire):
    """A function by its name."""

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
    """A call's function and its arguments, JSON text of an object."""

    name: FunctionName
    arguments: str
    parsed_arguments: Any = None
    """The same, parsed: the SDK's message objects, sent back as they are, have it."""


class HistoryCall(Wire):
    """A call the assistant made earlier."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None
    """Its place in the list: the SDK's message objects made of a stream have it."""


def _without_custom_tools(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    for index, tool in enumerate(value if isinstance(value, list) else ()):
        _refuse_custom(tool, f"tools[{index}]")
    return value


def _without_custom_choice(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    _refuse_custom(value, "tool_choice")
    return value


def _refuse_custom(value: Any, path: str) -> None:  # noqa: ANN401  (any JSON value)
    if isinstance(value, dict) and value.get("type") == "custom":
        raise UnsupportedParameterError(
            f"'{path}' is a custom tool; this server calls tools of type 'function'.",
            param=f"{path}.type",
        )


def _kind_of_choice(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return "~object" if isinstance(value, dict) else "~mode"


ToolList: TypeAlias = Annotated[list[ToolDefinition], BeforeValidator(_without_custom_tools)]
ToolChoiceField: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("~mode")]
    | Annotated[
        Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")], Tag("~object")
    ],
    Discriminator(_kind_of_choice),
    BeforeValidator(_without_custom_choice),
]


def to_tools(tools: Sequence[ToolDefinition] | None) -> tuple[Tool, ...]:
    """The tools in our words, in order.

    Raises:
        InvalidRequestError: Two have the same name.
    """
    names: set[str] = set()
    for index, tool in enumerate(tools or ()):
        name = tool.function.name
        if name in names:
            raise InvalidRequestError(
                f"Two tools are named '{name}'. Names must be unique.",
                param=f"tools[{index}].function.name",
            )
        names.add(name)
    return tuple(_tool(tool.function) for tool in tools or ())


def _tool(function: FunctionDefinition) -> Tool:
    parameters = {"type": "object"} if function.parameters is None else function.parameters
    return Tool(function.name, function.description, parameters, is_strict=bool(function.strict))


def to_tool_choice(
    tool_choice: str | NamedTool | AllowedToolsChoice | None,
    parallel_tool_calls: bool | None,  # noqa: FBT001  (the wire's value, as it came)
    tools: Sequence[Tool],
) -> ToolChoice:
    """The choice in our words: `auto` by default when there are tools, else `none`.

    Args:
        tool_choice: The field.
        parallel_tool_calls: The field; on by default.
        tools: Those of the request.

    Raises:
        InvalidRequestError: It asks for a call without tools, or names a tool that is not there.
    """
    is_parallel = parallel_tool_calls is not False
    if not tools:
        if tool_choice not in (None, "none", "auto"):
            raise InvalidRequestError(
                "'tool_choice' is only allowed when 'tools' are given.", param="tool_choice"
            )
        return ToolChoice("none", is_parallel=is_parallel)
    known = {tool.name for tool in tools}
    if isinstance(tool_choice, NamedTool):
        _check_name(tool_choice, known, "tool_choice")
        return ToolChoice("required", (tool_choice.function.name,), is_parallel)
    if isinstance(tool_choice, AllowedToolsChoice):
        allowed = tool_choice.allowed_tools
        for index, tool in enumerate(allowed.tools):
            _check_name(tool, known, f"tool_choice.allowed_tools.tools[{index}]")
        names = tuple(dict.fromkeys(tool.function.name for tool in allowed.tools))
        return ToolChoice(allowed.mode, names, is_parallel)
    if tool_choice == "none":
        return ToolChoice("none", is_parallel=is_parallel)
    return ToolChoice("required" if tool_choice == "required" else "auto", (), is_parallel)


def _check_name(tool: NamedTool, known: set[str], path: str) -> None:
    if tool.function.name not in known:
        raise InvalidRequestError(
            f"'{path}' names the tool '{tool.function.name}', which is not among 'tools'.",
            param=f"{path}.function.name",
        )


def to_tool_calls(calls: Sequence[HistoryCall] | None, path: str) -> tuple[ToolCall, ...]:
    """An assistant message's calls in our words.

    Args:
        calls: The field.
        path: JSON path of the field.

    Raises:
        InvalidRequestError: Arguments are not JSON text of an object.
    """
    return tuple(
        ToolCall(
            call.id,
            call.function.name,
            to_arguments(call.function.arguments, f"{path}[{index}].function.arguments"),
        )
        for index, call in enumerate(calls or ())
    )


def to_arguments(text: str, path: str) -> str:
    """A call's arguments in the history, written as prompts have them; an empty text is `{}`.

    Args:
        text: The field: JSON text of an object.
        path: Its JSON path.

    Raises:
        InvalidRequestError: It is something else.
    """
    try:
        value = from_json(text, allow_inf_nan=False) if text.strip() else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"'{path}' must be the JSON text of an object.", param=path, code="invalid_value"
        )
    return json.dumps(value, ensure_ascii=False)
