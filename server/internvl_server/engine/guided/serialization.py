"""Constraints as JSON data, for the processes that try to compile them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from internvl_server.core import CallableTool, Constraint, Grammar, JsonSchema, Regex, ToolCalls

__all__ = ["constraint_from_json", "constraint_to_json"]

_KINDS = {cls.__name__: cls for cls in (JsonSchema, Regex, Grammar, ToolCalls)}


def constraint_to_json(constraint: Constraint) -> dict[str, Any]:
    """The JSON object of a constraint."""
    return {"kind": type(constraint).__name__, "fields": asdict(constraint)}


def constraint_from_json(data: Mapping[str, Any]) -> Constraint:
    """The constraint of a JSON object that `constraint_to_json` made."""
    fields = dict(data["fields"])
    if "tools" in fields:
        fields["tools"] = tuple([CallableTool(**tool) for tool in fields["tools"]])
    return _KINDS[data["kind"]](**fields)
