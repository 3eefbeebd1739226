"""Bounds on constraints, checked before anything is compiled."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from internvl_server.core import Constraint, Grammar, JsonSchema, Regex

__all__ = ["constraint_key"]

_MAX_CHARS = 64 << 10
_MAX_DEPTH = 32
_MAX_REPEATS = 50_000
_MAX_DIGITS = 6

# Parentheses and braces in them mean nothing: escapes, character classes, and in grammars texts and comments.
# One that does not end reaches to the end of the text, so that every text is read once.
_REGEX_LITERALS = re.compile(r"\\.?|\[\^?\]?(?:\\.?|[^\]\\])*(?:\]|\Z)", re.DOTALL)
_GRAMMAR_LITERALS = re.compile(
    rf'"(?:\\.?|[^"\\])*(?:"|\Z)|#[^\n]*|{_REGEX_LITERALS.pattern}', re.DOTALL
)
_PIECES = re.compile(r"\{(\d*)(?:,(\d*))?\}|.", re.ASCII | re.DOTALL)


def constraint_key(constraint: Constraint) -> tuple[str, str]:
    """Identify a constraint by its content, regardless of the request field it came from.

    Raises:
        ValueError: It is longer, nested more deeply, or has more repetitions, than allowed.
    """
    content = _content(constraint)
    if isinstance(constraint, Regex):
        _check_pattern(constraint.pattern, _REGEX_LITERALS)
    elif isinstance(constraint, Grammar):
        _check_pattern(constraint.gbnf, _GRAMMAR_LITERALS)
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
            _check_patterns(node)
            children = (*node, *node.values())
        elif isinstance(node, list):
            children = node
        num_chars += _num_chars(node)
        if num_chars > _MAX_CHARS:
            raise ValueError(f"it is longer than {_MAX_CHARS:,} characters")
        if depth > _MAX_DEPTH:
            raise _too_deep()
        pending += [(child, depth + 1) for child in children]


def _check_patterns(node: Mapping[str, object]) -> None:
    by_name = node.get("patternProperties")
    names = by_name if isinstance(by_name, Mapping) else ()
    for pattern in (node.get("pattern"), *names):
        if isinstance(pattern, str):
            _check_pattern(pattern, _REGEX_LITERALS)


def _check_pattern(text: str, literals: re.Pattern[str]) -> None:
    """Check what a parser would follow recursively, or write out. Whether it is correct is not checked."""
    if len(text) > _MAX_CHARS:
        return  # refused for that
    groups, last = [1], 1  # most repetitions within each open group, and of what was read last
    for piece in _PIECES.finditer(literals.sub("x", text)):
        if piece[0] == "(":
            groups.append(1)
            last = 1
        elif piece[0] == ")" and len(groups) > 1:
            last = groups.pop()
        else:
            counts = [int(count[:_MAX_DIGITS]) for count in piece.groups() if count]
            last = last * max(counts, default=1) if len(piece[0]) > 1 else 1
        groups[-1] = max(groups[-1], last)
        if len(groups) - 1 > _MAX_DEPTH:
            raise _too_deep()
        if last > _MAX_REPEATS:
            raise ValueError(f"it repeats something more than {_MAX_REPEATS:,} times")


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _num_chars(node: object) -> int:
    if isinstance(node, int):
        return 1 + node.bit_length() // 4  # at most its digits
    return len(node) if isinstance(node, str | list | Mapping) else 1
