"""Constraints from the tools of a request and from the format of its answer."""

from collections.abc import Sequence
from dataclasses import replace

from internvl_server.core import CallableTool, Constraint, JsonSchema, Tool, ToolCalls, ToolChoice
from internvl_server.errors import Field, InvalidRequestError

__all__ = ["combine", "tool_call_constraint"]

_ANY_OBJECT = {"type": "object"}


def tool_call_constraint(tools: Sequence[Tool], choice: ToolChoice) -> ToolCalls | None:
    """Constrain the calls of an answer to the tools; None when there can be no call.

    Arguments must fit a tool's schema when the tool is strict or a call is required. Otherwise any object is
    allowed: a schema that was only meant as a description must not fail a request that may need no tool.
    """
    if choice.mode == "none" or not tools:
        return None
    is_required = choice.mode == "required"
    callable_tools = tuple(
        CallableTool(
            tool.name,
            tool.parameters if tool.is_strict or is_required else _ANY_OBJECT,
            tool.is_strict,
        )
        for tool in tools
        if not choice.names or tool.name in choice.names
    )
    return ToolCalls(callable_tools, is_required, choice.is_parallel)


def combine(calls: ToolCalls | None, answer: Constraint | None) -> Constraint | None:
    """Constrain an answer to either calls of tools or a format. A required call excludes the format.

    Raises:
        InvalidRequestError: The format is not a JSON schema; only JSON can be told apart from calls.
    """
    if calls is None or answer is None:
        return calls or answer
    if calls.is_required:
        return calls
    if not isinstance(answer, JsonSchema):
        raise InvalidRequestError(
            f"'{answer.param}' and ",
            Field.TOOLS,
            " both say what the answer must be. Give one of them, or set ",
            Field.TOOL_CHOICE,
            " to 'none'.",
            param=answer.param,
        )
    return replace(calls, answer=answer.schema, param=answer.param, is_strict=answer.is_strict)
