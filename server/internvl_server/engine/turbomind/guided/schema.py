"""Rewrites JSON schemas so that the grammar compiler enforces as much of them as possible.

The compiler (xgrammar) silently ignores what it does not know. Each keyword that is left in a schema here
was tested on it, alone and in combination; tests/lmdeploy has the tables. What cannot be expressed is dropped
and named as loosened. Stricter behaviour is accepted: patterns match whole strings, and an object with
`properties` has no others unless the schema says so.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from internvl_server.engine.guided.schemas import is_mapped, map_schemas, tidied
from internvl_server.engine.turbomind.guided.combining import Combiner

__all__ = ["held_schema"]

Schema: TypeAlias = dict[str, Any]
IsPattern: TypeAlias = Callable[[str], bool]

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset(
        {"properties", "required", "additionalProperties", "unevaluatedProperties", "patternProperties",
         "propertyNames", "minProperties", "maxProperties"}
    ),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "unevaluatedItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({*_BOUNDS, "multipleOf"}),
    "integer": frozenset({*_BOUNDS, "multipleOf"}),
    "boolean": frozenset(),
    "null": frozenset(),
}  # fmt: skip
_NEVER = frozenset(
    {"not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains", "dependencies",
     "dependentRequired", "dependentSchemas", "$dynamicRef", "$recursiveRef"}
)  # fmt: skip
_CONSTRAINTS = frozenset().union(*_KEYWORDS.values()) | {"type", "enum", "const"}
_FORMATS = frozenset(
    {"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
     "uri-reference", "uri-template", "json-pointer", "relative-json-pointer"}
)  # fmt: skip
# Larger bounds are too large for the compiler.
_LARGEST = 2**53 - 1
_FAR = 2**1000  # what is larger may not be a float
# Values of an integer that are listed instead of described.
_MAX_LISTED = 100
# Number of properties times their count; this takes the compiler about two seconds.
_MAX_COUNTED = 4000
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "array": list, "object": dict,
    "boolean": bool, "null": type(None),
}  # fmt: skip


def held_schema(schema: Mapping[str, Any], is_pattern: IsPattern) -> tuple[Schema, set[str]]:
    """Rewrite a schema so that all of the result is enforced.

    Args:
        schema: The client's.
        is_pattern: Whether the compiler takes a pattern.

    Returns:
        The schema, and the keywords of which it allows more than the client's.

    Raises:
        ValueError: It is malformed, or allows no value.
    """
    loosened: set[str] = set()
    tidy = tidied(schema, loosened)
    holder = _Holder(is_pattern, loosened)
    combiner = Combiner(tidy, loosened)
    combined = combiner.combined(tidy)
    held = map_schemas(combined, holder.held)
    assert isinstance(held, dict)
    return held, loosened


class _Holder:
    """Rewrites one schema after another; the schemas inside it have been rewritten before.

    Args:
        is_pattern: Whether the compiler takes a pattern.
        loosened: Gets the keywords of which a result allows more.
    """

    def __init__(self, is_pattern: IsPattern, loosened: set[str]) -> None:
        self._is_pattern = is_pattern
        self._loosened = loosened
        self._by_type = {
            "integer": self._integer,
            "number": self._number,
            "string": self._string,
            "object": self._object,
        }

    def held(self, schema: Schema) -> Schema:
        """The schema as the compiler enforces it."""
        if schema.get("uniqueItems") is False:
            del schema["uniqueItems"]
        self._drop(schema, _NEVER & schema.keys())
        if "$ref" in schema:
            return self._reference(schema)
        if "const" in schema or "enum" in schema:
            return self._listed(schema)
        if "anyOf" in schema:
            self._drop(schema, _CONSTRAINTS & schema.keys())
            return schema
        return self._typed(schema)

    def _drop(self, schema: Schema, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._loosened.add(key)
            del schema[key]

    def _reference(self, schema: Schema) -> Schema:
        reference = schema["$ref"]
        if reference != "#" and not reference.startswith("#/"):
            raise ValueError("'$ref' must begin with '#/'")
        if not is_mapped(reference):  # what it refers to is not rewritten
            self._loosened.add("$ref")
        self._drop(schema, (_CONSTRAINTS | {"anyOf"}) & schema.keys())
        return schema

    def _listed(self, schema: Schema) -> Schema:
        """Fixed values; those of another type than `type` are left out."""
        values = [schema.pop("const")] if "const" in schema else schema["enum"]
        types = _types(schema)
        kept = [v for v in values if not types or any(_is_of(v, name) for name in types)]
        if not kept:
            raise ValueError("'enum' allows no value")
        schema.pop("type", None)
        self._drop(schema, ((_CONSTRAINTS | {"anyOf"}) - {"enum"}) & schema.keys())
        schema["enum"] = kept
        return schema

    def _typed(self, schema: Schema) -> Schema:
        types = _types(schema) or _inferred(schema)
        if len(types) == 1:
            return self._of_type(schema, types[0])
        if not types:
            return schema
        own = {key: value for key, value in schema.items() if key not in _CONSTRAINTS}
        return own | {
            "anyOf": [
                self._of_type({key: schema[key] for key in _known(schema, name)}, name)
                for name in types
            ]
        }

    def _of_type(self, schema: Schema, name: str) -> Schema:
        # A keyword of another type constrains nothing.
        others = _CONSTRAINTS - _KEYWORDS[name] - {"enum", "const"}
        own = {key: value for key, value in schema.items() if key not in others} | {"type": name}
        rewrite = self._by_type.get(name)
        return rewrite(own) if rewrite else own

    def _integer(self, schema: Schema) -> Schema:
        low, high = (
            _bound(schema, "minimum", "exclusiveMinimum", 1),
            _bound(schema, "maximum", "exclusiveMaximum", -1),
        )
        for key in _BOUNDS:
            schema.pop(key, None)
        if low > high:
            raise ValueError("the bounds of an integer allow no value")
        divisor = schema.pop("multipleOf", 1)
        if divisor != 1:
            return self._multiples(schema, (low, high), divisor)
        if low > -math.inf:
            schema["minimum"] = int(low)
        if high < math.inf:
            schema["maximum"] = int(high)
        if any(abs(schema.get(key, 0)) > _LARGEST for key in _BOUNDS):
            self._drop(schema, schema.keys() & set(_BOUNDS))
        return schema

    def _multiples(self, schema: Schema, bounds: tuple[float, float], divisor: float) -> Schema:
        low, high = bounds
        is_whole = float(divisor).is_integer()
        if is_whole and (high - low) / divisor < _MAX_LISTED:
            first = math.ceil(low / divisor)
            values = [int(n * divisor) for n in range(first, math.floor(high / divisor) + 1)]
            if not values:
                raise ValueError("the bounds of an integer allow no multiple")
            return {"enum": values}
        if is_whole and bounds == (-math.inf, math.inf):
            return schema | {"multipleOf": int(divisor)}
        self._loosened.add("multipleOf")
        rest = {"minimum": low, "maximum": high}
        return self._integer(schema | {k: v for k, v in rest.items() if math.isfinite(v)})

    def _number(self, schema: Schema) -> Schema:
        self._drop(schema, {"multipleOf"} & schema.keys())
        for key in _BOUNDS:
            if abs(schema.get(key, 0)) > _LARGEST:
                self._drop(schema, [key])
        return schema

    def _string(self, schema: Schema) -> Schema:
        """The compiler enforces one of pattern, format and lengths."""
        if schema.get("format") not in _FORMATS:
            schema.pop("format", None)  # an annotation
        if "pattern" in schema and not self._is_pattern(schema["pattern"]):
            self._drop(schema, ["pattern"])
        lengths = {"minLength", "maxLength"}
        if "pattern" in schema:
            self._drop(schema, (lengths | {"format"}) & schema.keys())
        elif "format" in schema:
            self._drop(schema, lengths & schema.keys())
        return schema

    def _object(self, schema: Schema) -> Schema:
        properties = dict(schema.get("properties") or {})
        patterns = schema.get("patternProperties")
        others = schema.get("additionalProperties", True)
        is_closed = others is False
        for name in schema.get("required") or ():
            if name in properties:
                continue
            if patterns:  # the name may fit one of them
                self._loosened.add("required")
                continue
            if is_closed:
                raise ValueError(f"'required' names {name!r}, which 'properties' does not have")
            properties[name] = others if isinstance(others, dict) else {}
        if properties:
            schema["properties"] = properties
            if not is_closed and not all(map(str.isascii, properties)):
                # The names of other properties may then be those of these.
                self._loosened |= schema.keys() & {"additionalProperties", "unevaluatedProperties"}
        if patterns and (properties or not all(map(self._is_pattern, patterns))):
            self._drop(schema, ["patternProperties"])
        if schema.get("propertyNames") is not None and (properties or patterns):
            self._drop(schema, ["propertyNames"])
        bounds = [schema.get(key) for key in ("minProperties", "maxProperties")]
        count = max((bound for bound in bounds if isinstance(bound, int)), default=0)
        if count * len(properties) > _MAX_COUNTED:  # the compiler would hang
            self._drop(schema, {"minProperties", "maxProperties"} & schema.keys())
        return schema


def _bound(schema: Schema, inclusive: str, exclusive: str, step: int) -> float:
    """The least (`step` 1) or largest (-1) whole number within two bounds; infinite without any."""
    values = [-step * math.inf]
    for key, is_exclusive in ((inclusive, False), (exclusive, True)):
        value = schema.get(key)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            continue
        value = max(-_FAR, min(_FAR, value))
        whole = math.ceil(value) if step > 0 else math.floor(value)
        values.append(whole + step if is_exclusive and whole == value else whole)
    return max(values) if step > 0 else min(values)


def _known(schema: Schema, name: str) -> Iterable[str]:
    return schema.keys() & _KEYWORDS.get(name, frozenset())


def _inferred(schema: Schema) -> list[str]:
    """The type that the keywords are about, where there is no `type`."""
    known = (name for name, keywords in _KEYWORDS.items() if keywords & schema.keys())
    return list(known)[:1]


def _types(schema: Schema) -> list[str]:
    names = schema.get("type", [])
    return names if isinstance(names, list) else [names]


def _is_of(value: object, name: str) -> bool:
    is_other_bool = isinstance(value, bool) and name != "boolean"
    is_whole_float = name == "integer" and isinstance(value, float) and value.is_integer()
    return is_whole_float or (not is_other_bool and isinstance(value, _TYPES.get(name, ())))
