"""A guide as a grammar of llguidance: what it must say, in the library's variant of Lark.

JSON is written as Python's `json.dumps` writes it, with one space after `,` and `:` and no other, so
that a model cannot fill an answer with blanks. A keyword of a schema that llguidance does not know how
to keep is an error, never left out.
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


def grammar_of(guide: Constraint) -> str:
    """The grammar every answer of a guide fits.

    Raises:
        Exception: The source is malformed. What a grammar itself has wrong, its compiler tells.
    """
    if isinstance(guide, JsonSchema):
        return _json_grammar(guide.schema)
    if isinstance(guide, Regex):
        return str(LLMatcher.grammar_from_regex(_without_anchors(guide.pattern)))
    lark = lark_of_gbnf(guide.gbnf) if isinstance(guide, Grammar) else _lark_of_tools(guide)
    return str(LLMatcher.grammar_from_lark(lark))


def _json_grammar(schema: Mapping[str, Any]) -> str:
    return str(
        LLMatcher.grammar_from_json_schema(dict(schema), overrides=cast("Any", _JSON_OPTIONS))
    )


def _without_anchors(pattern: str) -> str:
    """The whole answer must fit anyway; llguidance knows no anchors."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$"):
        body = pattern[:-1]
        num_backslashes = len(body) - len(body.rstrip("\\"))
        return body if num_backslashes % 2 == 0 else pattern
    return pattern


def _lark_of_tools(calls: ToolCalls) -> str:
    """Text with calls, nothing but calls, or calls or JSON; calls as Qwen2.5 writes them.

    The lexeme before a call is lazy: it ends with the first `<tool_call>`, so no text gets past one.
    """
    lines = [_HEADER]
    more = ' ("\\n" first call)*' if calls.is_parallel else ""
    only_calls = f'"\\n"? first call{more}'
    if calls.answer is not None:
        schema = json.dumps({**calls.answer, "x-guidance": dict(_JSON_OPTIONS)})
        lines += [f"start: {only_calls} | answer", f"answer: %json {schema}"]
    elif not calls.is_required:
        lines += [
            f"start: (before call){'*' if calls.is_parallel else '?'} AFTER",
            f"before[lazy]: /(.|\\n)*{_CALL_START}/",
            f"AFTER: /(.|\\n)*/ & ~/(.|\\n)*{_CALL_START}(.|\\n)*/",
        ]
    else:
        lines.append(f"start: {only_calls}")
    if not calls.is_hint:
        lines.append(f"first: {json.dumps(_CALL_START)}")
    names = [f"call{number}" for number in range(len(calls.tools))]
    lines.append(f"call: {' | '.join(names)}")
    for name, tool in zip(names, calls.tools, strict=True):
        head = f'\n{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
        arguments = json.dumps(_arguments_schema(tool.parameters))
        lines += [
            f"{name}: {json.dumps(head)} {name}_json {json.dumps('}' + _CALL_END)}",
            f"{name}_json: %json {arguments}",
        ]
    return "\n".join(lines)


def _arguments_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object whatever it says."""
    types = parameters.get("type", "object")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        raise ValueError("the parameters of a tool must be an object")
    return {**parameters, "type": "object", "x-guidance": dict(_JSON_OPTIONS)}
