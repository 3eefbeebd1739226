"""JSON schemas as grammar compilers take them: in one spelling, without what no compiler knows.

A keyword that is left out is loosened: the answer is checked for it when it is finished.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError

__all__ = [
    "ANNOTATIONS",
    "SchemaMap",
    "is_mapped",
    "map_schemas",
    "modern",
    "tidied",
    "without_assertions",
]

SchemaMap: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
     "$comment"}
)  # fmt: skip
_SINGLE = (
    "items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties",
    "propertyNames", "contains", "not", "if", "then", "else",
)  # fmt: skip
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_MAPS = (
    "properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions",
)  # fmt: skip
_BOUNDS = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
# A grammar has a state for each remainder.
_MAX_DIVISOR = 1000
_GROUP = re.compile(
    r"\\.|\[(?:\\.|[^\]\\])*\]|(?P<assertion>\(\?(?:[=!]|<[=!]))|\(|(?P<end>\))|.", re.S
)
_BOUNDARY = re.compile(r"(?P<kept>\\[^bB]|\[(?:\\.|[^\]\\])*\])|\\[bB]", re.S)


def map_schemas(schema: Any, change: SchemaMap) -> Any:  # noqa: ANN401  (a schema may be any JSON)
    """Change a schema and all schemas inside it, from the inside out."""
    if not isinstance(schema, Mapping):
        return schema
    changed = dict(schema)
    for key, value in schema.items():
        if key in _SINGLE and isinstance(value, Mapping):
            changed[key] = map_schemas(value, change)
        elif key in _LISTS and isinstance(value, list):
            changed[key] = [map_schemas(inner, change) for inner in value]
        elif key in _MAPS and isinstance(value, Mapping):
            changed[key] = {name: map_schemas(inner, change) for name, inner in value.items()}
    return change(changed)


def is_mapped(reference: str) -> bool:
    """Whether the pointer of a reference leads to a schema that `map_schemas` changes."""
    names = iter(reference.removeprefix("#").split("/")[1:])
    return all(
        name in _SINGLE or (name in _MAPS + _LISTS and next(names, None) is not None)
        for name in names
    )


def modern(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as draft 2020-12 has it, without annotations and without keywords that are null.

    Raises:
        ValueError: It is malformed.
    """
    changed = map_schemas(schema, _modern)
    try:
        # Which patterns are valid is for the engine to say, and not for Python.
        Draft202012Validator.check_schema(changed, format_checker=FormatChecker(()))
    except SchemaError as err:
        place = "/".join(map(str, err.absolute_path))
        raise ValueError(f"{err.message[:200]} (in the schema at '{place}')") from err
    assert isinstance(changed, dict)
    return changed


def tidied(schema: Mapping[str, Any], loosened: set[str]) -> dict[str, Any]:
    """The schema without what grammar compilers take offence at.

    Args:
        schema: The client's.
        loosened: Gets the keywords of which the result allows more.

    Raises:
        ValueError: It is malformed.
    """
    changed = map_schemas(modern(schema), lambda inner: _tidied(inner, loosened))
    assert isinstance(changed, dict)
    return changed


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    """Write what earlier drafts have as 2020-12 has it."""
    for key in [key for key, v in schema.items() if v is None and key not in ("const", "default")]:
        del schema[key]
    for key in (ANNOTATIONS | {"$schema"}) & schema.keys():
        del schema[key]
    for bound, exclusive in _BOUNDS:
        if isinstance(flag := schema.get(exclusive), bool):
            del schema[exclusive]
            if flag and bound in schema:
                schema[exclusive] = schema.pop(bound)
    if isinstance(items := schema.get("items"), list):
        schema["prefixItems"] = items
        schema["items"] = schema.pop("additionalItems", True)
    schema.pop("additionalItems", None)  # says nothing without such a list
    if isinstance(dependencies := schema.pop("dependencies", None), dict):
        for key, of_kind in (("dependentRequired", True), ("dependentSchemas", False)):
            own = {k: v for k, v in dependencies.items() if isinstance(v, list) is of_kind}
            if own:
                schema[key] = own | (schema.get(key) or {})
    return schema


def _tidied(schema: dict[str, Any], loosened: set[str]) -> dict[str, Any]:
    names = schema.get("propertyNames")
    if names is True or (isinstance(names, dict) and _is_any_string(names)):
        del schema["propertyNames"]  # every name is a string
    if schema.get("multipleOf", 0) > _MAX_DIVISOR:
        loosened.add("multipleOf")
        del schema["multipleOf"]
    if "pattern" in schema:
        pattern = without_assertions(schema["pattern"])
        if pattern != schema["pattern"]:
            loosened.add("pattern")
        schema["pattern"] = pattern
    return schema


def _is_any_string(schema: Mapping[str, Any]) -> bool:
    return schema.keys() <= {"type"} and schema.get("type", "string") == "string"


def without_assertions(pattern: str) -> str:
    r"""The pattern without look-ahead, look-behind, `\b` and `\B`; it matches no less than before."""
    return _BOUNDARY.sub(lambda m: m["kept"] or "", "".join(_outside_assertions(pattern)))


def _outside_assertions(pattern: str) -> Iterator[str]:
    depth, inside_from = 0, 0
    for atom in _GROUP.finditer(pattern):
        text = atom.group()
        depth += text.startswith("(")
        if atom["assertion"] and not inside_from:
            inside_from = depth
        if not inside_from:
            yield text
        if atom["end"]:
            if depth == inside_from:
                inside_from = 0
            depth -= 1
