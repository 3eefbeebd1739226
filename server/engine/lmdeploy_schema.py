"""Which JSON schemas TurboMind's grammar compiler (xgrammar) holds an answer to in full.

It skips what it does not know without a word, and the answer would be held to less than the client asked
for. What is let through here was tried keyword by keyword, alone and beside others; tests/lmdeploy has the
table. Stricter than asked is let through: patterns are anchored, and an object with `properties` has no
others unless `additionalProperties` says so.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

__all__ = ["check_schema"]

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
# Each decides alone: what stands beside it is skipped.
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
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "array": list, "object": dict,
    "boolean": bool, "null": type(None),
}  # fmt: skip
_SUBSCHEMAS = (
    "items", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "propertyNames",
)  # fmt: skip
_LISTS = ("anyOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")


def check_schema(schema: object) -> None:
    """Refuse what an answer would not be held to.

    Raises:
        ValueError: Names the keyword.
    """
    if not isinstance(schema, Mapping):
        return  # true, false, or malformed: the compiler says so
    keywords = {key for key in schema if key in _CONSTRAINTS and schema[key] is not False}
    if never := sorted(keywords & _NEVER):
        raise ValueError(f"the keyword '{never[0]}' is not supported by the turbomind engine")
    alone = next((key for key in _ALONE if key in schema), None)
    if alone is not None:
        _check_alone(schema, alone, keywords)
    else:
        _check_typed(schema, keywords)
    for inner in _inner(schema):
        check_schema(inner)


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
    """Whether the type beside fixed values says nothing they do not say."""
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
    if not types:  # the type is guessed, by these alone
        types = ["object"] if "properties" in schema else ["array"] if "items" in schema else []
    known = frozenset().union(*(_KEYWORDS.get(name, frozenset()) for name in types))
    # A keyword of another type constrains nothing, in any engine.
    if _types(schema):
        keywords = {key for key in keywords if key in known}
    elif unknown := sorted(keywords - known):
        raise ValueError(f"'{unknown[0]}' needs a 'type' beside it in the turbomind engine")
    if "string" in types:
        _check_string(schema, keywords)
    if "object" in types:
        _check_object(schema)


def _check_string(schema: Schema, keywords: set[str]) -> None:
    if "format" in keywords and schema["format"] not in _FORMATS:
        raise ValueError(
            f"the format {schema['format']!r} is not supported by the turbomind engine"
        )
    if len(keywords & {"pattern", "format"}) + bool(keywords & _LENGTH) > 1:
        raise ValueError(
            "'pattern', 'format' and lengths of one string are not supported together by the turbomind "
            "engine"
        )


def _check_object(schema: Schema) -> None:
    required, properties = schema.get("required", []), schema.get("properties", {})
    if isinstance(required, list) and isinstance(properties, Mapping):
        for name in required:
            if name not in properties:
                raise ValueError(f"'required' names {name!r}, which 'properties' does not have")


def _types(schema: Schema) -> list[str]:
    names = schema.get("type", [])
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]


def _inner(schema: Schema) -> Iterator[object]:
    for key in _SUBSCHEMAS:
        yield schema.get(key)
    for key in _LISTS:
        options = schema.get(key)
        if isinstance(options, list):
            yield from options
    for key in _MAPS:
        named = schema.get(key)
        if isinstance(named, Mapping):
            yield from named.values()
