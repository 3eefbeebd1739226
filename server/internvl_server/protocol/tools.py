"""Tools in every dialect: a function's definition, the choice among functions, arguments of calls."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, StringConstraints, Tag
from pydantic_core import from_json

from internvl_server.core import Tool, ToolChoice
from internvl_server.errors import Field, InvalidRequestError
from internvl_server.protocol.limits import MAX_TOOL_CHARS, num_chars_of
from internvl_server.protocol.wire import Wire

__all__ = [
    "MAX_ALLOWED",
    "CallArguments",
    "Function",
    "FunctionName",
    "ToolMode",
    "read_arguments",
    "read_begun_arguments",
    "to_arguments",
    "to_tool_choice",
    "to_tools",
]

MAX_ALLOWED = 1024

FunctionName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _branch_of_arguments(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return "~arguments" if isinstance(value, dict) else "~text"


CallArguments: TypeAlias = Annotated[
    Annotated[str, Tag("~text")] | Annotated[dict[str, Any], Tag("~arguments")],
    Discriminator(_branch_of_arguments),
]
ToolMode: TypeAlias = Literal["none", "auto", "required"]


class Function(Wire):
    """A function's name, purpose and arguments; `parameters` is a JSON schema of an object."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


def to_tools(functions: Sequence[Function], path: str) -> tuple[Tool, ...]:
    """The tools of a request, in order.

    Args:
        functions: Their definitions.
        path: JSON path of a definition's name, with `{}` in place of its index.

    Raises:
        InvalidRequestError: Two have the same name.
    """
    names: set[str] = set()
    for index, function in enumerate(functions):
        if function.name in names:
            raise InvalidRequestError(
                f"Two tools are named '{function.name}'. Names must be unique.",
                param=path.format(index),
            )
        names.add(function.name)
    return tuple(
        Tool(
            function.name,
            function.description,
            {"type": "object"} if function.parameters is None else function.parameters,
            is_strict=bool(function.strict),
        )
        for function in functions
    )


def to_tool_choice(
    mode: ToolMode,
    named: Sequence[tuple[str, str]],
    tools: Sequence[Tool],
    *,
    parallel: bool | None,
) -> ToolChoice:
    """Which tools an answer may or must call; `none` when there are no tools.

    Args:
        mode: Whether tools may or must be called.
        named: The only tools that may be called, each with the JSON path of its name; empty means all.
        tools: Those of the request.
        parallel: The field `parallel_tool_calls`; on by default.

    Raises:
        InvalidRequestError: A call is required without tools, or a name is not one of `tools`.
    """
    is_parallel = parallel is not False
    if not tools:
        if named or mode == "required":
            raise InvalidRequestError(
                Field.TOOL_CHOICE,
                " is only allowed with ",
                Field.TOOLS,
                ".",
                param=Field.TOOL_CHOICE,
            )
        return ToolChoice("none", is_parallel=is_parallel)
    known = {tool.name for tool in tools}
    for name, path in named:
        if name not in known:
            raise InvalidRequestError(
                f"'{path}' names the tool '{name}', which is not among ",
                Field.TOOLS,
                ".",
                param=path,
            )
    return ToolChoice(mode, tuple(dict.fromkeys(name for name, _ in named)), is_parallel)


def to_arguments(arguments: str | Mapping[str, Any] | None) -> str:
    """The arguments of an earlier call as text.

    A text stays as it is, whatever the model wrote. Other programs send an object, or nothing where a tool
    takes no arguments.

    Raises:
        InvalidRequestError: An object is too large to be written without holding up other requests.
    """
    if isinstance(arguments, str):
        return arguments if arguments.strip() else "{}"
    if num_chars_of(arguments) > MAX_TOOL_CHARS:
        raise InvalidRequestError(
            f"The arguments of a call have more than {MAX_TOOL_CHARS} characters (the server's limit)."
        )
    return json.dumps(arguments or {}, ensure_ascii=False)


def read_arguments(text: str) -> Any:  # noqa: ANN401  (any JSON value)
    """The value of a call's arguments; None if they are not JSON, such as those of a call that was cut off.

    A number that is too large to be written again becomes the largest or smallest float.
    """
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float)
    except (ValueError, RecursionError):
        return None


def read_begun_arguments(text: str) -> dict[str, Any]:
    """The members that arguments have so far; a string that has not ended is left out, and so is a list.

    Anthropic's SDKs read the input of a streamed call that was cut off in the same way.
    """
    try:
        begun = json.dumps(from_json(text, allow_partial=True))
    except ValueError:  # nothing has been written yet, or it is nested too deeply
        return {}
    members = json.loads(begun, parse_constant=_float)
    return members if isinstance(members, dict) else {}


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python refuses to read very long ones
        return _float(digits)


def _float(digits: str) -> float:
    return min(max(float(digits), -sys.float_info.max), sys.float_info.max)
