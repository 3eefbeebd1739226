"""Tools of `/v1/messages`: definitions, and the choice among them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from internvl_server.core import Tool, ToolChoice
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.tools import Function, ToolMode, to_tool_choice, to_tools
from internvl_server.protocol.wire import Wire

__all__ = ["ClientTool", "ToolName", "ToolUseChoice", "chosen_tools", "defined_tools"]

ToolName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]

_MODES: dict[str, ToolMode] = {
    "auto": "auto",
    "any": "required",
    "tool": "required",
    "none": "none",
}


class ClientTool(Wire):
    """A tool of the client; `input_schema` is a JSON schema of an object."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    # Hints for a cache and for how the calls are streamed, which is always as they are generated.
    cache_control: Any = None
    eager_input_streaming: bool | None = None
    # Only the provider's tools could call it as well.
    allowed_callers: (
        Annotated[list[Literal["direct"]], Field(fail_fast=True, max_length=1)] | None
    ) = None


class ToolUseChoice(Wire):
    """Whether tools may, must or must not be called, and which one."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


def defined_tools(tools: Sequence[ClientTool]) -> tuple[Tool, ...]:
    """The tools of a request, in order.

    Raises:
        InvalidRequestError: Two have the same name.
    """
    functions = [
        Function.model_construct(
            name=tool.name,
            description=tool.description,
            parameters=tool.input_schema,
            strict=tool.strict,
        )
        for tool in tools
    ]
    return to_tools(functions, "tools[{}].name")


def chosen_tools(choice: ToolUseChoice | None, tools: Sequence[Tool]) -> ToolChoice:
    """Which of the tools an answer may or must call.

    Raises:
        InvalidRequestError: The choice names no tool, or one where none can be named.
    """
    choice = choice or ToolUseChoice(type="auto")
    if (choice.type == "tool") != (choice.name is not None):
        raise InvalidRequestError(
            "'tool_choice.name' belongs to the type 'tool', and to no other.",
            param="tool_choice.name",
        )
    named = [] if choice.name is None else [(choice.name, "tool_choice.name")]
    return to_tool_choice(
        _MODES[choice.type], named, tools, parallel=not choice.disable_parallel_tool_use
    )
