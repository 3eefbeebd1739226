"""Structural tags of xgrammar, TurboMind's grammar compiler, for grammars and tool calls."""

import json
from collections.abc import Mapping
from typing import Any

from internvl_server.core import Grammar, ToolCalls
from internvl_server.engine.guided.compiler import UnsupportedConstraintError
from internvl_server.engine.turbomind.guided.schema import native_schema

__all__ = ["schema_of", "structural_tag"]

_BEGIN, _END = "<tool_call>", "</tool_call>"


def structural_tag(constraint: Grammar | ToolCalls) -> str:
    """JSON text of the structural tag of a constraint.

    Raises:
        UnsupportedConstraintError: The schema of a tool uses a keyword that the compiler would not enforce,
            or the constraint allows an answer in place of calls.
    """
    if isinstance(constraint, Grammar):
        return _tag({"type": "grammar", "grammar": constraint.gbnf})
    if constraint.answer is not None:
        raise UnsupportedConstraintError(
            "the turbomind engine cannot constrain an answer to a format where tools may be called instead; "
            "leave one of them out"
        )
    if constraint.is_required:
        # Nothing but calls, separated by a newline.
        shape = {"type": "tags_with_separator", "separator": "\n", "at_least_one": True}
    else:
        # Any text; each trigger must begin a call. After a single call nothing may follow.
        shape = {"type": "triggered_tags", "triggers": [_BEGIN], "at_least_one": False}
    tags = [_call(tool.name, schema_of(tool.parameters)) for tool in constraint.tools]
    return _tag(shape | {"tags": tags, "stop_after_first": not constraint.is_parallel})


def schema_of(schema: Mapping[str, Any]) -> object:
    """Rewrite a schema so that the compiler enforces all of it.

    Raises:
        UnsupportedConstraintError: Names the keyword that cannot be enforced.
    """
    try:
        return native_schema(schema)
    except ValueError as err:
        raise UnsupportedConstraintError(str(err)) from None


def _call(name: str, parameters: object) -> dict[str, object]:
    written = json.dumps(name, ensure_ascii=False)
    return {
        "type": "tag",
        "begin": f'{_BEGIN}\n{{"name": {written}, "arguments": ',
        "content": {"type": "json_schema", "json_schema": parameters},
        "end": f"}}\n{_END}",
    }


def _tag(shape: Mapping[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": shape}, ensure_ascii=False)
