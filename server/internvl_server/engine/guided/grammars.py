"""A guide as a grammar of llguidance: what it must say, in the library's variant of Lark.

JSON is written as Python's `json.dumps` writes it, with one space after `,` and `:` and no other, so
that a model cannot fill an answer with blanks. A keyword of a schema that llguidance does not know how
to keep is an error, never left out.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from llguidance import LLMatcher

from internvl_server.core import Guide
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


def grammar_of(guide: Guide) -> str:
    """The grammar every answer of a guide fits.

    Raises:
        Exception: The source is malformed. What a grammar itself has wrong, its compiler tells.
    """
    if guide.kind == "json_schema":
        return _json_grammar(guide.source)
    if guide.kind == "regex":
        return str(LLMatcher.grammar_from_regex(_without_anchors(guide.source)))
    lark = lark_of_gbnf(guide.source) if guide.kind == "grammar" else _lark_of_tools(guide.source)
    return str(LLMatcher.grammar_from_lark(lark))


def _json_grammar(source: str) -> str:
    schema = json.loads(source)
    # A boolean is a schema too, but has no room for options.
    schema = {} if schema is True else schema
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=cast("Any", _JSON_OPTIONS)))


def _without_anchors(pattern: str) -> str:
    """The whole answer must fit anyway; llguidance knows no anchors."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$"):
        body = pattern[:-1]
        num_backslashes = len(body) - len(body.rstrip("\\"))
        return body if num_backslashes % 2 == 0 else pattern
    return pattern


def _lark_of_tools(source: str) -> str:
    """Text with calls, nothing but calls, or calls or JSON; calls as Qwen2.5 writes them.

    The lexeme before a call is lazy: it ends with the first `<tool_call>`, so no text gets past one.
    """
    spec = json.loads(source)
    lines = [_HEADER]
    more = ' ("\\n" first call)*' if spec["is_parallel"] else ""
    only_calls = f'"\\n"? first call{more}'
    if "answer" in spec:
        schema = json.dumps({**spec["answer"], "x-guidance": dict(_JSON_OPTIONS)})
        lines += [f"start: {only_calls} | answer", f"answer: %json {schema}"]
    elif not spec["is_required"]:
        lines += [
            f"start: (before call){'*' if spec['is_parallel'] else '?'} AFTER",
            f"before[lazy]: /(.|\\n)*{_CALL_START}/",
            f"AFTER: /(.|\\n)*/ & ~/(.|\\n)*{_CALL_START}(.|\\n)*/",
        ]
    else:
        lines.append(f"start: {only_calls}")
    if spec["is_required"] or "answer" in spec:
        lines.append(f"first: {json.dumps(_CALL_START)}")
    calls = [f"call{number}" for number in range(len(spec["tools"]))]
    lines.append(f"call: {' | '.join(calls)}")
    for name, tool in zip(calls, spec["tools"], strict=True):
        head = f'\n{{"name": {json.dumps(tool["name"], ensure_ascii=False)}, "arguments": '
        arguments = json.dumps(_arguments_schema(tool.get("parameters")))
        lines += [
            f"{name}: {json.dumps(head)} {name}_json {json.dumps('}' + _CALL_END)}",
            f"{name}_json: %json {arguments}",
        ]
    return "\n".join(lines)


def _arguments_schema(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object whatever it says."""
    schema = dict(parameters or {})
    types = schema.get("type", "object")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        raise ValueError("the parameters of a tool must be an object")
    return {**schema, "type": "object", "x-guidance": dict(_JSON_OPTIONS)}
