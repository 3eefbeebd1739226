"""Constraints as grammars of llguidance.

JSON is written as Python's `json.dumps` writes it, with one space after `,` and `:` and no other white
space, so that a model cannot pad an answer with blanks. A schema keyword that llguidance cannot enforce is
an error; it is never ignored.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from llguidance import LLMatcher

from internvl_server.core import Constraint, Grammar, JsonSchema, Regex, ToolCalls
from internvl_server.engine.guided.gbnf import lark_of_gbnf

__all__ = ["grammar_of"]

_JSON_OPTIONS: Mapping[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": False,
    "lenient": False,
}
_HEADER = "%llguidance {}\n"
_CALL_START = "<tool_call>"
_CALL_END = "\n</tool_call>"


def grammar_of(constraint: Constraint) -> str:
    """Write a constraint as a grammar. Errors in the grammar itself are found when it is compiled.

    Raises:
        ValueError: The constraint is malformed.
    """
    if isinstance(constraint, JsonSchema):
        return _json_grammar(constraint.schema)
    if isinstance(constraint, Regex):
        return str(LLMatcher.grammar_from_regex(_without_anchors(constraint.pattern)))
    if isinstance(constraint, Grammar):
        return str(LLMatcher.grammar_from_lark(lark_of_gbnf(constraint.gbnf)))
    return str(LLMatcher.grammar_from_lark(_lark_of_tools(constraint)))


def _json_grammar(schema: Mapping[str, Any]) -> str:
    options = cast("Any", _JSON_OPTIONS)
    return str(LLMatcher.grammar_from_json_schema(dict(schema), overrides=options))


def _without_anchors(pattern: str) -> str:
    """Remove anchors, which llguidance does not know; it always matches the whole answer."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$"):
        body = pattern[:-1]
        num_backslashes = len(body) - len(body.rstrip("\\"))
        return body if num_backslashes % 2 == 0 else pattern
    return pattern


def _lark_of_tools(calls: ToolCalls) -> str:
    """The calls as Qwen2.5 writes them, with text, alone, or instead of a JSON answer."""
    names = [f"call{number}" for number in range(len(calls.tools))]
    lines = [_HEADER, *_start_rules(calls), f"call: {' | '.join(names)}"]
    for name, tool in zip(names, calls.tools, strict=True):
        head = f'\n{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
        lines += [
            f"{name}: {json.dumps(head)} {name}_json {json.dumps('}' + _CALL_END)}",
            f"{name}_json: %json {_arguments_schema(tool.parameters)}",
        ]
    return "\n".join(lines)


def _start_rules(calls: ToolCalls) -> list[str]:
    if calls.is_hint:
        # The lexeme before a call is lazy: it ends with the first `<tool_call>`, so no text contains one.
        return [
            f"start: (before call){'*' if calls.is_parallel else '?'} AFTER",
            f"before[lazy]: /(.|\\n)*{_CALL_START}/",
            f"AFTER: /(.|\\n)*/ & ~/(.|\\n)*{_CALL_START}(.|\\n)*/",
        ]
    further = ' ("\\n" first call)*' if calls.is_parallel else ""
    only_calls = f'"\\n"? first call{further}'
    first = f"first: {json.dumps(_CALL_START)}"
    if calls.answer is None:
        return [f"start: {only_calls}", first]
    return [f"start: {only_calls} | answer", f"answer: %json {_with_options(calls.answer)}", first]


def _arguments_schema(parameters: Mapping[str, Any]) -> str:
    """The arguments of a tool are an object, even where its schema does not say so."""
    types = parameters.get("type", "object")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        raise ValueError("the parameters of a tool must be an object")
    return _with_options({**parameters, "type": "object"})


def _with_options(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": dict(_JSON_OPTIONS)})
