"""Constraints as the echo engine reads them: what they name first is what is answered."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from internvl_server.core import CallableTool, Constraint, JsonSchema, Regex, ToolCalls

__all__ = ["is_binding", "narrowed"]

# A regular expression that is several groups, as that of choices is: the first.
_FIRST_CHOICE = re.compile(r"\((?:\\.|[^\\()\[\]])*\)(?=\|)", re.DOTALL)
# What holds values and no schemas, and what holds schemas by a name of the client's.
_VALUES = frozenset({"const", "default", "enum", "examples"})
_BY_NAME = frozenset({"$defs", "definitions", "patternProperties", "properties"})


def is_binding(constraint: Constraint) -> bool:
    """Whether the answer must be of a form; tools that may be called leave any text."""
    return not (isinstance(constraint, ToolCalls) and constraint.is_hint)


def narrowed(constraint: Constraint) -> Constraint:
    """The constraint with only the first of its choices, of the values of each enum and of its tools.

    What it allows, the original allows too; that may be nothing.
    """
    if isinstance(constraint, JsonSchema):
        return replace(constraint, schema=_schema(constraint.schema))
    if isinstance(constraint, ToolCalls):
        return _calls(constraint)
    if isinstance(constraint, Regex) and (first := _FIRST_CHOICE.match(constraint.pattern)):
        return replace(constraint, pattern=first.group())
    return constraint


def _calls(calls: ToolCalls) -> Constraint:
    if calls.answer is not None:
        return JsonSchema(_schema(calls.answer), calls.param)
    first = calls.tools[0]
    tool = CallableTool(first.name, _schema(first.parameters))
    return replace(calls, tools=(tool,), is_parallel=False)


def _schema(node: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """A schema with the first value of each enum in it."""
    if isinstance(node, list):
        return [_schema(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    return {key: _keyword(key, value) for key, value in node.items()}


def _keyword(key: str, value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    if key == "enum" and isinstance(value, list):
        return value[:1]
    if key in _VALUES:
        return value
    if key in _BY_NAME and isinstance(value, dict):
        return {name: _schema(schema) for name, schema in value.items()}
    return _schema(value)
