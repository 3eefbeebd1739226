"""Constraints as JSON, for the processes that judge them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from internvl_server.core import CallableTool, Constraint, Grammar, JsonSchema, Regex, ToolCalls

__all__ = ["constraint_of", "job_of"]

_KINDS = {cls.__name__: cls for cls in (JsonSchema, Regex, Grammar, ToolCalls)}


def job_of(constraint: Constraint) -> dict[str, Any]:
    """The JSON object of a constraint."""
    return {"kind": type(constraint).__name__, "fields": asdict(constraint)}


def constraint_of(job: Mapping[str, Any]) -> Constraint:
    """The constraint of a JSON object that `job_of` made."""
    fields = dict(job["fields"])
    if "tools" in fields:
        fields["tools"] = tuple([CallableTool(**tool) for tool in fields["tools"]])
    return _KINDS[job["kind"]](**fields)
