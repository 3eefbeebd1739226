"""Wire to core for `/v1/responses`: tools, and the choice among them."""

from collections.abc import Sequence

from internvl_server.core import Tool
from internvl_server.core import ToolChoice as Choice
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.responses.text_format import (
    AllowedFunctions,
    FunctionChoice,
    FunctionTool,
    ToolChoice,
)

__all__ = ["to_tool_choice", "to_tools"]


def to_tools(tools: Sequence[FunctionTool] | None) -> tuple[Tool, ...]:
    """The tools in our words, in order.

    Raises:
        InvalidRequestError: Two have the same name.
    """
    names: set[str] = set()
    for index, tool in enumerate(tools or ()):
        if tool.name in names:
            raise InvalidRequestError(
                f"Two tools are named '{tool.name}'. Names must be unique.",
                param=f"tools[{index}].name",
            )
        names.add(tool.name)
    return tuple(_tool(tool) for tool in tools or ())


def _tool(tool: FunctionTool) -> Tool:
    schema = {"type": "object"} if tool.parameters is None else tool.parameters
    return Tool(tool.name, tool.description, schema, is_strict=bool(tool.strict))


def to_tool_choice(
    choice: ToolChoice | None,
    parallel_tool_calls: bool | None,  # noqa: FBT001  (the wire's value, as it came)
    tools: Sequence[FunctionTool] | None,
) -> Choice:
    """The choice in our words: `auto` by default when there are tools, else `none`.

    Raises:
        InvalidRequestError: It asks for a call without tools, or names a tool that is not there.
    """
    is_parallel = parallel_tool_calls is not False
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequestError(
                "'tool_choice' is only allowed when 'tools' are given.", param="tool_choice"
            )
        return Choice("none", is_parallel=is_parallel)
    known = {tool.name for tool in tools}
    if isinstance(choice, FunctionChoice):
        _check_name(choice, known, "tool_choice")
        return Choice("required", (choice.name,), is_parallel)
    if isinstance(choice, AllowedFunctions):
        for index, tool in enumerate(choice.tools):
            _check_name(tool, known, f"tool_choice.tools[{index}]")
        names = tuple(dict.fromkeys(tool.name for tool in choice.tools))
        return Choice(choice.mode, names, is_parallel)
    return Choice(choice or "auto", (), is_parallel)


def _check_name(choice: FunctionChoice, known: set[str], path: str) -> None:
    if choice.name not in known:
        raise InvalidRequestError(
            f"'{path}' names the tool '{choice.name}', which is not among 'tools'.",
            param=f"{path}.name",
        )
