"""Rewrites `allOf`, `oneOf` and `anyOf` to single schemas and lists of options, which can be enforced."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from internvl_server.engine.guided.schemas import ANNOTATIONS, is_mapped, map_schemas

__all__ = ["Combiner"]

Schema: TypeAlias = dict[str, Any]

_COMBINING = ("allOf", "oneOf", "anyOf")
_DEFINITIONS = ("$defs", "definitions")
_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_NO_CONSTRAINT = ANNOTATIONS | set(_DEFINITIONS)


class Combiner:
    """Rewrites the schemas of one root.

    Args:
        root: The schema that references point into.
        loosened: Gets the keywords of which a result allows more.
    """

    def __init__(self, root: Mapping[str, Any], loosened: set[str]) -> None:
        self._root = root
        self._loosened = loosened
        self._targets: dict[str, Schema | None] = {}

    def combined(self, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a schema)
        """The schema without `allOf` and `oneOf`, and with nothing beside `anyOf`, as far as possible."""
        return map_schemas(schema, self._combined)

    def _combined(self, schema: Schema) -> Schema:
        if isinstance(schema.get("allOf"), list):
            schema = self._all_of(schema)
        if isinstance(schema.get("oneOf"), list):
            schema = self._one_of(schema)
        if isinstance(schema.get("anyOf"), list):
            schema = self._any_of(schema)
        return schema

    def _all_of(self, schema: Schema) -> Schema:
        """Merge the schemas; where that is impossible, keep as many of the first as can be merged."""
        branches = schema.pop("allOf")
        kept = {key: value for key, value in schema.items() if key in _NO_CONSTRAINT}
        rest = {key: value for key, value in schema.items() if key not in _NO_CONSTRAINT}
        for branch in branches:
            if branch is True or branch == {}:
                continue
            if not rest and isinstance(branch, dict):
                rest = branch
                continue
            merged = self._merged(rest, branch)
            if merged is None:
                self._loosened.add("allOf")
            else:
                rest = merged
        return kept | {key: value for key, value in rest.items() if key not in kept}

    def _one_of(self, schema: Schema) -> Schema:
        if "anyOf" in schema:
            self._loosened.add("oneOf")
            del schema["oneOf"]
            return schema
        options = schema.pop("oneOf")
        if not self._are_exclusive(options):
            self._loosened.add("oneOf")
        return schema | {"anyOf": options}

    def _any_of(self, schema: Schema) -> Schema:
        """Put what stands beside the options into each of them."""
        beside = {key: v for key, v in schema.items() if key not in _NO_CONSTRAINT | {"anyOf"}}
        if not beside:
            return schema
        options = [self._merged(beside, option) for option in schema["anyOf"]]
        if all(option is not None for option in options):
            kept = {key: v for key, v in schema.items() if key in _NO_CONSTRAINT}
            return kept | {"anyOf": options}
        if beside.keys() <= {"type"}:
            self._loosened.add("type")
            return {key: v for key, v in schema.items() if key != "type"}
        # The properties of an object say more than conditions on them.
        self._loosened.add("anyOf")
        return {key: v for key, v in schema.items() if key != "anyOf"}

    def _merged(self, first: Any, second: Any) -> Schema | None:  # noqa: ANN401  (schemas)
        """One schema for both; None if there is none without a combination of schemas."""
        first, second = self._resolved(first), self._resolved(second)
        if first is None or second is None:
            return None
        merged = dict(first)
        for key, value in second.items():
            both = _both(key, merged[key], value) if key in merged else value
            if both is None and key not in ANNOTATIONS:
                return None
            merged[key] = merged[key] if key in ANNOTATIONS and key in merged else both
        has_list = [key for key in ("anyOf", "enum", "const") if key in merged]
        return None if len(has_list) > 1 or _reaches_beyond(first, second) else merged

    def _resolved(self, schema: Any) -> Schema | None:  # noqa: ANN401  (a schema)
        if not isinstance(schema, dict):
            return None
        if "$ref" not in schema:
            return schema
        if schema.keys() - _NO_CONSTRAINT != {"$ref"}:
            return None
        reference = str(schema["$ref"])
        if reference not in self._targets:
            self._targets[reference] = None  # while it is combined, it may refer to itself
            self._targets[reference] = self._combined_target(reference)
        return self._targets[reference]

    def _combined_target(self, reference: str) -> Schema | None:
        target = self._target(reference) if is_mapped(reference) else None
        if not isinstance(target, Mapping) or target.keys() & {"$ref", *_COMBINING}:
            return None
        own = {key: value for key, value in target.items() if key not in _DEFINITIONS}
        combined: Schema = self.combined(own)
        return combined

    def _target(self, reference: str) -> object:
        node: object = self._root
        for name in reference.removeprefix("#").split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            node = node.get(name) if isinstance(node, Mapping) else None
        return node

    def _are_exclusive(self, options: list[Any]) -> bool:
        """Whether no value fits two options: types or the values of a required property differ."""
        resolved = [self._resolved(option) for option in options]
        known = [option for option in resolved if option is not None]
        if len(known) < len(options):
            return False
        if _are_disjoint([_kinds(option) for option in known]):
            return True
        names = {name for option in known for name in option.get("required") or ()}
        return any(_are_disjoint([_tags(option, name) for option in known]) for name in names)


def _both(key: str, first: Any, second: Any) -> Any:  # noqa: ANN401  (values of keywords)
    """The value of a keyword that says both; None if there is none."""
    if first == second:
        return first
    if key == "required" and isinstance(first, list) and isinstance(second, list):
        return [*first, *(name for name in second if name not in first)]
    if key in ("properties", "$defs", "definitions"):
        are_maps = isinstance(first, dict) and isinstance(second, dict)
        if are_maps and all(first[name] == second[name] for name in first.keys() & second.keys()):
            return {**first, **second}
    if key == "type" and [first, second] in (["integer", "number"], ["number", "integer"]):
        return "integer"
    if isinstance(first, int | float) and isinstance(second, int | float):
        if key in _LEAST:
            return max(first, second)
        if key in _MOST:
            return min(first, second)
    return None


def _reaches_beyond(first: Schema, second: Schema) -> bool:
    """Whether one has a keyword about the properties or items that are not named in the same schema."""
    for keyword, named in (("additionalProperties", "properties"), ("items", "prefixItems")):
        for one, other in ((first, second), (second, first)):
            if keyword in one and one.get(keyword) is not True and named in other:
                return True
    return False


def _kinds(option: Schema) -> set[str] | None:
    """The types of an option's values; None if they are unknown."""
    names = option.get("type")
    if names is None:
        return None
    kinds = set(names) if isinstance(names, list) else {names}
    return {"number" if kind == "integer" else str(kind) for kind in kinds}


def _tags(option: Schema, name: str) -> set[str] | None:
    """The values that a required property may have; None if they are not listed."""
    properties, required = option.get("properties"), option.get("required")
    is_required = isinstance(required, list) and name in required
    if not is_required or not isinstance(properties, dict) or option.get("type") != "object":
        return None
    prop = properties.get(name)
    if not isinstance(prop, dict):
        return None
    values = [prop["const"]] if "const" in prop else prop.get("enum")
    return {repr(value) for value in values} if isinstance(values, list) else None


def _are_disjoint(sets: list[set[str] | None]) -> bool:
    known = [one for one in sets if one is not None]
    return len(known) == len(sets) and sum(map(len, known)) == len(set().union(*known))
