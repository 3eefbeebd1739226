"""Schemas made by Hypothesis, and whether a value fits one; only what the strategies here can make."""

import json
import re
from typing import Any

from hypothesis import strategies as st

_NAMES = st.sampled_from(["a", "b", "name", "é", 'quo"te', "line\nbreak"])
_TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
}  # fmt: skip


def _integers() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-50, 999), st.integers(0, 200))
    return bounds.map(lambda b: {"type": "integer", "minimum": b[0], "maximum": b[0] + b[1]})


def _strings() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(0, 3), st.integers(0, 4))
    sized = bounds.map(lambda b: {"type": "string", "minLength": b[0], "maxLength": sum(b)})
    patterns = st.sampled_from(["^[a-c]{1,3}$", "^(ab|é)x?$", r"^\d{2}-\d$"])
    return sized | patterns.map(lambda p: {"type": "string", "pattern": p})


def _objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def make(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(_NAMES, inner, max_size=3))
        required = [name for name in properties if draw(st.booleans())]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    return make()


def _arrays(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[1] + t[2]}
    )


_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [0, 17, "x", "é\n", None, True, [1, "two"], {"k": []}]
)
_LEAVES = (
    _integers()
    | _strings()
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}])
    | st.lists(_VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values})
)
SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: (
        _objects(inner)
        | _arrays(inner)
        | st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options})
    ),
    max_leaves=6,
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a parsed value is what the schema describes."""
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "enum" in schema:
        return json.dumps(value) in [json.dumps(option) for option in schema["enum"]]
    kind = schema["type"]
    if kind == "integer":
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return is_number and schema["minimum"] <= value <= schema["maximum"]
    if not isinstance(value, _TYPES[kind]):
        return False
    if kind == "string":
        is_long_enough = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 99)
        return is_long_enough and bool(re.search(schema.get("pattern", ""), value))
    if kind == "array":
        is_sized = schema["minItems"] <= len(value) <= schema["maxItems"]
        return is_sized and all(fits(item, schema["items"]) for item in value)
    if kind == "object":
        properties = schema["properties"]
        known = all(name in properties and fits(v, properties[name]) for name, v in value.items())
        return known and all(name in value for name in schema["required"])
    return True
