"""Structural tags of xgrammar, TurboMind's grammar compiler, for all constraints."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from internvl_server.core import Constraint, Grammar, JsonSchema, Regex, ToolCalls
from internvl_server.engine.turbomind.guided.ebnf import ebnf_of, expression_of
from internvl_server.engine.turbomind.guided.schema import held_schema

__all__ = ["TagWriter"]

_BEGIN, _END = "<tool_call>", "</tool_call>"

Format: TypeAlias = Mapping[str, Any]


class TagWriter:
    """Writes the tag of one constraint. `loosened` has the schema keywords that it does not enforce."""

    def __init__(self) -> None:
        self.loosened: set[str] = set()

    def tag_of(self, constraint: Constraint) -> str:
        """JSON text of the structural tag.

        Raises:
            ValueError: A schema is malformed, or allows no value.
        """
        tag = {"type": "structural_tag", "format": self._format(constraint)}
        return json.dumps(tag, ensure_ascii=False)

    def _format(self, constraint: Constraint) -> Format:
        if isinstance(constraint, Regex):
            return {"type": "regex", "pattern": constraint.pattern}
        if isinstance(constraint, Grammar):
            return {"type": "grammar", "grammar": constraint.gbnf}
        if isinstance(constraint, JsonSchema):
            return self._json(constraint.schema)
        calls = self._calls(constraint)
        if constraint.answer is None:
            return calls
        return {"type": "or", "elements": [calls, self._json(constraint.answer)]}

    def _calls(self, calls: ToolCalls) -> Format:
        if calls.is_hint:
            # Any text; each trigger must begin a call.
            shape = {"type": "triggered_tags", "triggers": [_BEGIN], "at_least_one": False}
        else:
            # Nothing but calls, separated by a newline.
            shape = {"type": "tags_with_separator", "separator": "\n", "at_least_one": True}
            shape["stop_after_first"] = not calls.is_parallel
        tags = [self._call(tool.name, tool.parameters) for tool in calls.tools]
        return shape | {"tags": tags}

    def _call(self, name: str, parameters: Mapping[str, Any]) -> Format:
        written = json.dumps(name, ensure_ascii=False)
        return {
            "type": "tag",
            "begin": f'{_BEGIN}\n{{"name": {written}, "arguments": ',
            "content": self._json(_of_object(parameters)),
            "end": f"}}\n{_END}",
        }

    def _json(self, schema: Mapping[str, Any]) -> Format:
        held, loosened = held_schema(schema, _is_pattern)
        self.loosened |= loosened
        return {"type": "grammar", "grammar": ebnf_of(held)}


def _of_object(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a tool are an object, even where its schema does not say so."""
    types = parameters.get("type", "object")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        raise ValueError("the parameters of a tool must be an object")
    if "$ref" in parameters:
        all_of = parameters.get("allOf")
        others = all_of if isinstance(all_of, list) else []
        return {**parameters, "allOf": [*others, {"type": "object"}]}
    return {**parameters, "type": "object"}


def _is_pattern(pattern: str) -> bool:
    try:
        expression_of(pattern)
    except ValueError:
        return False
    return True
