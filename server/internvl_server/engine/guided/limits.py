"""Bounds on constraints, checked before anything is compiled."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from internvl_server.core import Constraint, Grammar, JsonSchema, Regex

__all__ = ["constraint_key"]

_MAX_CHARS = 64 << 10
_MAX_DEPTH = 32


def constraint_key(constraint: Constraint) -> tuple[str, str]:
    """Identify a constraint by its content, regardless of the request field it came from.

    Raises:
        ValueError: It is longer, or its schemas are nested more deeply, than allowed.
    """
    content = _content(constraint)
    _check_bounds(content)
    return type(constraint).__name__, json.dumps(content, ensure_ascii=False)


def _content(constraint: Constraint) -> Any:  # noqa: ANN401  (any JSON value)
    if isinstance(constraint, Regex):
        return constraint.pattern
    if isinstance(constraint, Grammar):
        return constraint.gbnf
    if isinstance(constraint, JsonSchema):
        return constraint.schema
    tools = {tool.name: tool.parameters for tool in constraint.tools}
    return [tools, constraint.is_required, constraint.is_parallel, constraint.answer]


def _check_bounds(content: object) -> None:
    """Walk the parsed schema, no further than it is allowed to reach."""
    num_chars = 0
    pending = [(content, 0)]
    while pending:
        node, depth = pending.pop()
        children: Iterable[object] = ()
        if isinstance(node, Mapping):
            children = (*node, *node.values())
        elif isinstance(node, list):
            children = node
        num_chars += _num_chars(node)
        if num_chars > _MAX_CHARS:
            raise ValueError(f"it is longer than {_MAX_CHARS:,} characters")
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        pending += [(child, depth + 1) for child in children]


def _num_chars(node: object) -> int:
    if isinstance(node, int):
        return 1 + node.bit_length() // 4  # at most its digits
    return len(node) if isinstance(node, str | list | Mapping) else 1
