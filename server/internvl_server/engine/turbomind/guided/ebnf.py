"""JSON schemas as EBNF, written by the package xgrammar.

TurboMind is built with an older xgrammar than the package beside it, which enforces bounds of numbers,
`oneOf` and additional properties only loosely or not at all. Its notation of grammars is the same, so schemas
are converted by the package, and TurboMind only sees grammars.
"""

import json
import re
from typing import Any

import xgrammar
from xgrammar.testing import _regex_to_ebnf

from internvl_server.engine.guided.schemas import map_schemas
from internvl_server.engine.turbomind.guided.patterns import json_pattern

__all__ = ["ebnf_of", "expression_of", "reason_of"]

# TurboMind's xgrammar does not know this macro of the package.
_MACRO = re.compile(r'Regex\("pattern(\d+)", json_string=true\)')
# Characters of a string with a length, to which the package counts control characters.
_LENGTH_CHARACTER, _PLAIN_CHARACTER = r"[^\"\\\r\n]", r"[^\0-\x1f\"\\]"


def ebnf_of(schema: Any) -> str:  # noqa: ANN401  (a schema may be any JSON)
    """Write a schema as a grammar; JSON is laid out as Python's `json.dumps` writes it.

    Args:
        schema: As `held_schema` returns it.

    Raises:
        ValueError: It is malformed.
    """
    patterns: list[str] = []

    def number(pattern: str) -> str:
        patterns.append(pattern)
        return f"pattern{len(patterns) - 1}"

    def numbered(inner: dict[str, Any]) -> dict[str, Any]:
        if "pattern" in inner:
            inner["pattern"] = number(inner["pattern"])
        if "patternProperties" in inner:
            named = inner["patternProperties"].items()
            inner["patternProperties"] = {number(pattern): value for pattern, value in named}
        return inner

    text = json.dumps(map_schemas(schema, numbered), ensure_ascii=False)
    try:
        grammar = str(
            xgrammar.Grammar.from_json_schema(text, any_whitespace=False, strict_mode=True)
        )
    except RuntimeError as err:  # all that the native converter raises
        raise ValueError(reason_of(err)) from err
    grammar = grammar.replace(_LENGTH_CHARACTER, _PLAIN_CHARACTER)
    return _MACRO.sub(lambda macro: expression_of(patterns[int(macro[1])]), grammar)


def expression_of(pattern: str) -> str:
    """A pattern of a JSON string as an expression of EBNF.

    Raises:
        ValueError: The pattern is malformed, or has what the converter does not know.
    """
    try:
        return str(_regex_to_ebnf(json_pattern(pattern), with_rule_name=False)).strip()
    except RuntimeError as err:
        raise ValueError(reason_of(err)) from err


def reason_of(error: RuntimeError) -> str:
    """The message without the time, file and line of the converter's source."""
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", str(error))
