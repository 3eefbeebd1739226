"""The part of JSON Schema that TurboMind's grammar compiler (xgrammar) enforces completely.

The compiler silently ignores what it does not know, so an answer could violate the client's schema. Each
keyword accepted here was tested, alone and in combination, with the releases of xgrammar that TurboMind 0.18
may have been built from (0.1.34 to 0.2.2) and with the installed package; tests/lmdeploy has the table.
Stricter behaviour is accepted: patterns are anchored, and an object with `properties` has no others.
"""

from collections.abc import Mapping
from typing import TypeAlias

from internvl_server.engine.turbomind.guided.patterns import is_safe_pattern

__all__ = ["native_schema"]

Schema: TypeAlias = Mapping[str, object]

_NUMBER = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_LENGTH = frozenset({"minLength", "maxLength"})
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": _LENGTH | {"pattern", "format"},
    "integer": _NUMBER,
    "number": _NUMBER,
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "unevaluatedItems"}),
    "object": frozenset(
        {"properties", "required", "additionalProperties", "unevaluatedProperties", "patternProperties",
         "propertyNames", "minProperties", "maxProperties"}
    ),
    "boolean": frozenset(),
    "null": frozenset(),
}  # fmt: skip
# Where one of these is present, the compiler ignores all other keywords.
_ALONE = ("$ref", "const", "enum", "anyOf", "allOf")
_NEVER = frozenset(
    {"not", "if", "then", "else", "oneOf", "multipleOf", "uniqueItems", "contains", "minContains",
     "maxContains", "dependencies", "dependentRequired", "dependentSchemas", "additionalItems",
     "$dynamicRef", "$recursiveRef"}
)  # fmt: skip
_CONSTRAINTS = frozenset().union(*_KEYWORDS.values(), _ALONE, _NEVER)
_FORMATS = frozenset(
    {"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
     "uri-reference", "uri-template", "json-pointer", "relative-json-pointer"}
)  # fmt: skip
_LARGEST = 2**53 - 1
# Number of properties times their count; this takes the compiler about two seconds.
_MAX_COUNTED = 4000
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "array": list, "object": dict,
    "boolean": bool, "null": type(None),
}  # fmt: skip
_SUBSCHEMAS = (
    "items", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "propertyNames",
)  # fmt: skip
_LISTS = ("anyOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")


def native_schema(schema: object) -> object:
    """Rewrite a schema so that the compiler enforces all of it.

    Raises:
        ValueError: That is impossible; names the keyword.
    """
    if not isinstance(schema, Mapping):
        return schema  # true, false, or malformed, which the compiler reports
    keywords = {key for key in schema if key in _CONSTRAINTS and schema[key] is not False}
    if never := sorted(keywords & _NEVER):
        raise ValueError(f"the keyword '{never[0]}' is not supported by the turbomind engine")
    alone = next((key for key in _ALONE if key in schema), None)
    if alone is not None:
        _check_alone(schema, alone, keywords)
    else:
        _check_typed(schema, keywords)
    native = {key: _native_value(key, value) for key, value in schema.items()}
    is_bounded = alone is None and "integer" in _types(schema) and bool(keywords & _NUMBER)
    return _bounded(schema, native) if is_bounded else native


def _native_value(key: str, value: object) -> object:
    if key in _SUBSCHEMAS:
        return native_schema(value)
    if key in _LISTS and isinstance(value, list):
        return [native_schema(inner) for inner in value]
    if key in _MAPS and isinstance(value, Mapping):
        return {name: native_schema(inner) for name, inner in value.items()}
    return value


def _bounded(schema: Schema, native: dict[str, object]) -> dict[str, object]:
    """Rewrite the bounds of an integer; the compiler allows slightly too much for most of them."""
    low = max(
        _whole(schema, "minimum", -_LARGEST), _whole(schema, "exclusiveMinimum", -_LARGEST) + 1
    )
    if low not in (0, 1) or schema.keys() & {"maximum", "exclusiveMaximum"}:
        raise ValueError(
            "the turbomind engine supports no bounds of an integer other than a minimum of 0 or 1"
        )
    return {key: value for key, value in native.items() if key not in _NUMBER} | {"minimum": low}


def _whole(schema: Schema, key: str, default: int) -> int:
    value = schema.get(key, default)
    if isinstance(value, float) and value.is_integer():  # infinity is not
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"'{key}' of an integer must be a whole number")  # noqa: TRY004
    return value


def _check_alone(schema: Schema, alone: str, keywords: set[str]) -> None:
    if others := sorted(keywords - {alone}):
        raise ValueError(f"'{others[0]}' beside '{alone}' is not supported by the turbomind engine")
    options = schema[alone]
    if alone == "allOf" and isinstance(options, list) and len(options) > 1:
        raise ValueError("'allOf' of more than one is not supported by the turbomind engine")
    reference = str(options)
    if alone == "$ref" and reference != "#" and not reference.startswith("#/"):
        raise ValueError("'$ref' must begin with '#/'")
    if "type" in schema and not _fits(schema, alone):
        raise ValueError(f"'type' beside '{alone}' is not supported by the turbomind engine")


def _fits(schema: Schema, alone: str) -> bool:
    """Whether `type` is redundant because all fixed values have it."""
    values = schema[alone] if alone == "enum" else [schema[alone]]
    types = _types(schema)
    return alone in ("const", "enum") and isinstance(values, list) and all(
        any(_is_of(value, name) for name in types) for value in values
    )  # fmt: skip


def _is_of(value: object, name: str) -> bool:
    is_other_bool = isinstance(value, bool) and name != "boolean"
    return not is_other_bool and isinstance(value, _TYPES.get(name, ()))


def _check_typed(schema: Schema, keywords: set[str]) -> None:
    types = _types(schema)
    if not types:  # the compiler infers the type from these keywords only
        types = ["object"] if "properties" in schema else ["array"] if "items" in schema else []
    known = frozenset().union(*(_KEYWORDS.get(name, frozenset()) for name in types))
    # A keyword of another type constrains nothing, in any engine.
    if _types(schema):
        keywords = {key for key in keywords if key in known}
    elif unknown := sorted(keywords - known):
        raise ValueError(f"'{unknown[0]}' needs a 'type' beside it in the turbomind engine")
    if "number" in types and keywords & _NUMBER:
        raise ValueError("bounds of a 'number' are not supported by the turbomind engine")
    if "string" in types:
        _check_string(schema, keywords)
    if "object" in types:
        _check_object(schema)


def _check_string(schema: Schema, keywords: set[str]) -> None:
    if "format" in keywords and str(schema["format"]) not in _FORMATS:
        raise ValueError(
            f"the format {schema['format']!r} is not supported by the turbomind engine"
        )
    if len(keywords & {"pattern", "format"}) + bool(keywords & _LENGTH) > 1:
        raise ValueError(
            "'pattern', 'format' and lengths of one string are not supported together by the turbomind "
            "engine"
        )
    _check_pattern(schema.get("pattern", ""))


def _check_pattern(pattern: object) -> None:
    if isinstance(pattern, str) and not is_safe_pattern(pattern):
        raise ValueError(
            "the turbomind engine supports no pattern with a dot, a negated class, white space other than "
            "blanks, a quote or a backslash"
        )


def _check_object(schema: Schema) -> None:
    required, properties = schema.get("required", []), schema.get("properties", {})
    if isinstance(required, list) and isinstance(properties, Mapping):
        for name in required:
            if not isinstance(name, str) or name not in properties:
                raise ValueError(f"'required' names {name!r}, which 'properties' does not have")
    _check_num_properties(schema)
    for pattern in _names(schema, "patternProperties"):
        _check_pattern(pattern)
    # The compiler would apply their schema to the named properties as well.
    for key in ("additionalProperties", "unevaluatedProperties"):
        if _names(schema, "properties") and schema.get(key, False) is not False:
            raise ValueError(
                f"'{key}' beside 'properties' is not supported by the turbomind engine"
            )


def _check_num_properties(schema: Schema) -> None:
    """Refuse to count many properties, on which the compiler hangs; see tests/lmdeploy."""
    bounds = [schema.get(key) for key in ("minProperties", "maxProperties")]
    count = max((bound for bound in bounds if isinstance(bound, int)), default=0)
    if count * len(_names(schema, "properties")) > _MAX_COUNTED:
        raise ValueError(
            f"the turbomind engine cannot count up to {count} of so many 'properties' "
            "('minProperties', 'maxProperties')"
        )


def _names(schema: Schema, key: str) -> list[str]:
    named = schema.get(key)
    return list(named) if isinstance(named, Mapping) else []


def _types(schema: Schema) -> list[str]:
    names = schema.get("type", [])
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]
