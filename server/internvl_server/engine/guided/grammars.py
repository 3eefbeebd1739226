"""Constraints as grammars of llguidance.

JSON is written as Python's `json.dumps` writes it, with one space after `,` and `:` and no other white
space, so that a model cannot pad an answer with blanks. A schema keyword that llguidance cannot enforce is
an error or, in a lenient grammar, a warning.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from llguidance import LLMatcher

from internvl_server.core import Constraint, Grammar, JsonSchema, Regex, ToolCalls
from internvl_server.engine.guided.gbnf import lark_of_gbnf

__all__ = ["grammar_of"]

_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_HEADER = "%llguidance {}\n"
_CALL_START = "<tool_call>"
_CALL_END = "\n</tool_call>"


def grammar_of(constraint: Constraint, *, is_lenient: bool = False) -> str:
    """Write a constraint as a grammar. Errors in the grammar itself are found when it is compiled.

    Args:
        constraint: The constraint.
        is_lenient: Whether its schemas may have keywords that llguidance cannot enforce.

    Raises:
        ValueError: The constraint is malformed.
    """
    options = _LAYOUT | {"coerce_one_of": is_lenient, "lenient": is_lenient}
    if isinstance(constraint, JsonSchema):
        schema = dict(constraint.schema)
        return str(LLMatcher.grammar_from_json_schema(schema, overrides=cast("Any", options)))
    if isinstance(constraint, Regex):
        return str(LLMatcher.grammar_from_regex(_without_anchors(constraint.pattern)))
    if isinstance(constraint, Grammar):
        return str(LLMatcher.grammar_from_lark(lark_of_gbnf(constraint.gbnf)))
    return str(LLMatcher.grammar_from_lark(_lark_of_tools(constraint, options)))


def _without_anchors(pattern: str) -> str:
    """Remove anchors, which llguidance does not know; it always matches the whole answer."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$"):
        body = pattern[:-1]
        num_backslashes = len(body) - len(body.rstrip("\\"))
        return body if num_backslashes % 2 == 0 else pattern
    return pattern


def _lark_of_tools(calls: ToolCalls, options: Mapping[str, Any]) -> str:
    """The calls as Qwen2.5 writes them, with text, alone, or instead of a JSON answer."""
    names = [f"call{number}" for number in range(len(calls.tools))]
    lines = [_HEADER, *_start_rules(calls, options), f"call: {' | '.join(names)}"]
    for name, tool in zip(names, calls.tools, strict=True):
        head = f'\n{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
        lines += [
            f"{name}: {json.dumps(head)} {name}_json {json.dumps('}' + _CALL_END)}",
            f"{name}_json: %json {_arguments_schema(tool.parameters, options)}",
        ]
    return "\n".join(lines)


def _start_rules(calls: ToolCalls, options: Mapping[str, Any]) -> list[str]:
    if calls.is_hint:
        # The lexeme before a call is lazy: it ends with the first `<tool_call>`, so no text contains one.
        return [
            "start: (before call)* AFTER",
            f"before[lazy]: /(.|\\n)*{_CALL_START}/",
            f"AFTER: /(.|\\n)*/ & ~/(.|\\n)*{_CALL_START}(.|\\n)*/",
        ]
    further = ' ("\\n" first call)*' if calls.is_parallel else ""
    only_calls = f'"\\n"? first call{further}'
    first = f"first: {json.dumps(_CALL_START)}"
    if calls.answer is None:
        return [f"start: {only_calls}", first]
    answer = f"answer: %json {_with_options(calls.answer, options)}"
    return [f"start: {only_calls} | answer", answer, first]


def _arguments_schema(parameters: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The arguments of a tool are an object, even where its schema does not say so."""
    types = parameters.get("type", "object")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        raise ValueError("the parameters of a tool must be an object")
    return _with_options({**parameters, "type": "object"}, options)


def _with_options(schema: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": dict(options)})
