"""Guides as the echo engine reads them: what they name first is what is answered."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from internvl_server.core import Guide

__all__ = ["is_binding", "narrowed"]

# A regular expression that is several groups, as that of choices is: the first.
_FIRST_CHOICE = re.compile(r"\((?:\\.|[^\\()\[\]])*\)(?=\|)", re.DOTALL)
# What holds values and no schemas, and what holds schemas by a name of the client's.
_VALUES = frozenset({"const", "default", "enum", "examples"})
_BY_NAME = frozenset({"$defs", "definitions", "patternProperties", "properties"})


def is_binding(guide: Guide) -> bool:
    """Whether the answer must be of a form; tools that may be called leave any text."""
    if guide.kind != "tool_calls":
        return True
    spec = json.loads(guide.source)
    return spec["is_required"] or "answer" in spec


def narrowed(guide: Guide) -> Guide:
    """The guide with only the first of its choices, of the values of each enum and of its tools.

    What it allows, the guide allows too; that may be nothing.
    """
    if guide.kind == "json_schema":
        return replace(guide, source=json.dumps(_schema(json.loads(guide.source))))
    if guide.kind == "tool_calls":
        spec = json.loads(guide.source)
        if "answer" in spec:
            return Guide("json_schema", json.dumps(_schema(spec["answer"])), guide.param)
        return replace(guide, source=json.dumps(_calls(spec)))
    first = _FIRST_CHOICE.match(guide.source) if guide.kind == "regex" else None
    return replace(guide, source=first.group()) if first else guide


def _calls(spec: Mapping[str, Any]) -> dict[str, Any]:
    tool = dict(spec["tools"][0])
    if tool.get("parameters"):
        tool["parameters"] = _schema(tool["parameters"])
    return {**spec, "tools": [tool], "is_parallel": False}


def _schema(node: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """A schema with the first value of each enum in it."""
    if isinstance(node, list):
        return [_schema(item) for item in node]
    if not isinstance(node, dict):
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
