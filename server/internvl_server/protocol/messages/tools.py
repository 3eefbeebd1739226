"""Tools of `/v1/messages`: definitions, and the choice among them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from internvl_server.core import Tool, ToolChoice
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.messages.turns import (
    ToolChangeBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    Turn,
    blocks_of,
)
from internvl_server.protocol.tools import Function, ToolMode, to_tool_choice, to_tools
from internvl_server.protocol.wire import Wire

__all__ = ["ClientTool", "ToolUseChoice", "chosen_tools", "offered_tools"]

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
    # Hints for a cache and for streaming; calls are always streamed while they are generated.
    cache_control: Any = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    """The tool is offered only after a reference to it."""
    # 'direct' is the model; the other callers are tools of the provider.
    allowed_callers: (
        Annotated[list[Literal["direct"]], Field(fail_fast=True, max_length=1)] | None
    ) = None


class ToolUseChoice(Wire):
    """Whether tools may, must or must not be called, and which one."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


def offered_tools(tools: Sequence[ClientTool], turns: Sequence[Turn]) -> tuple[Tool, ...]:
    """The tools that an answer may call, in order.

    Args:
        tools: All tools of the request.
        turns: Its messages, which may refer to deferred tools, and add and remove tools.

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
    is_offered = {tool.name: not tool.defer_loading for tool in tools}
    for turn in turns:
        is_offered.update(_changes(turn))
    defined = to_tools(functions, "tools[{}].name")
    return tuple(tool for tool in defined if is_offered[tool.name])


def _changes(turn: Turn) -> Iterator[tuple[str, bool]]:
    """The names of the tools that a message adds and removes."""
    for block in blocks_of(turn):
        if isinstance(block, ToolChangeBlock):
            yield block.tool.name, block.type == "tool_addition"
        if isinstance(block, ToolResultBlock):
            for part in block.content or ():
                if isinstance(part, ToolReferenceBlock):
                    yield part.tool_name, True


def chosen_tools(choice: ToolUseChoice | None, tools: Sequence[Tool]) -> ToolChoice:
    """Which of the tools an answer may or must call.

    Raises:
        InvalidRequestError: The name of a tool is missing, unknown or not allowed with the choice's type.
    """
    choice = choice or ToolUseChoice(type="auto")
    if (choice.type == "tool") != (choice.name is not None):
        raise InvalidRequestError(
            "'tool_choice.name' is required with the type 'tool', and not allowed with any other.",
            param="tool_choice.name",
        )
    named = [] if choice.name is None else [(choice.name, "tool_choice.name")]
    return to_tool_choice(
        _MODES[choice.type], named, tools, parallel=not choice.disable_parallel_tool_use
    )
