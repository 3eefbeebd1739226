"""How schemas are rewritten for TurboMind's compiler, without the compiler; tests/lmdeploy has it."""

from typing import Any

import pytest
from internvl_server.engine.turbomind.guided.schema import held_schema

from tests.everyday_schemas import EVERYDAY

A = {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]}
B = {"type": "object", "properties": {"k": {"enum": ["b", "c"]}}, "required": ["k"]}
C = {"type": "object", "properties": {"k": {"const": "c"}}, "required": ["k"]}
INTEGER = {"type": "integer"}


def held(schema: dict[str, Any]) -> tuple[dict[str, Any], str]:
    rewritten, loosened = held_schema(schema, lambda pattern: "\\p" not in pattern)
    return rewritten, " ".join(sorted(loosened))


@pytest.mark.parametrize(
    ("schema", "rewritten", "loosened"),
    [
        (
            {"type": ["integer", "null"], "minimum": 1},
            {"anyOf": [{"minimum": 1, "type": "integer"}, {"type": "null"}]},
            "",
        ),
        (
            {"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3},
            {"type": "integer", "minimum": 1, "maximum": 2},
            "",
        ),
        ({"type": "integer", "minimum": 1.0}, {"type": "integer", "minimum": 1}, ""),
        (
            {"type": "integer", "minimum": 0, "maximum": 10, "multipleOf": 4},
            {"enum": [0, 4, 8]},
            "",
        ),
        (
            {"type": "integer", "minimum": 0, "multipleOf": 4},
            {"type": "integer", "minimum": 0},
            "multipleOf",
        ),
        ({"type": "integer", "maximum": 2**60}, {"type": "integer"}, "maximum"),
        ({"type": "integer", "maximum": 10**400}, {"type": "integer"}, "maximum"),
        (
            {"type": "integer", "minimum": -(10**400), "multipleOf": 3},
            {"type": "integer"},
            "minimum multipleOf",
        ),
        ({"type": "array", "additionalItems": {"pattern": 5}}, {"type": "array"}, ""),
        ({"const": 3, "type": "integer", "title": "x"}, {"enum": [3]}, ""),
        ({"type": "string", "enum": ["a", 1, None]}, {"enum": ["a"]}, ""),
        (
            {"type": "string", "format": "emoji", "minLength": 1},
            {"type": "string", "minLength": 1},
            "",
        ),
        (
            {"type": "string", "pattern": "^\\p{L}$", "minLength": 1},
            {"type": "string", "minLength": 1},
            "pattern",
        ),
        (
            {"type": "string", "pattern": "^(?=a)b$"},
            {"type": "string", "pattern": "^b$"},
            "pattern",
        ),
        (
            {"properties": {"a": {}}, "description": None},
            {"type": "object", "properties": {"a": {}}},
            "",
        ),
        (
            {"type": "object", "required": ["a"]},
            {"type": "object", "required": ["a"], "properties": {"a": {}}},
            "",
        ),
        (
            {"required": ["a"], "additionalProperties": INTEGER},
            {
                "type": "object",
                "required": ["a"],
                "properties": {"a": INTEGER},
                "additionalProperties": INTEGER,
            },
            "",
        ),
        (
            {"type": "object", "required": ["ab"], "patternProperties": {"^a": INTEGER}},
            {"type": "object", "required": ["ab"], "patternProperties": {"^a": INTEGER}},
            "required",
        ),
        ({"type": "boolean", "minimum": 3, "uniqueItems": False}, {"type": "boolean"}, ""),
        ({"allOf": [INTEGER]}, INTEGER, ""),
        (
            {"allOf": [INTEGER | {"minimum": 1}, {"minimum": 3}], "maximum": 5},
            INTEGER | {"minimum": 3, "maximum": 5},
            "",
        ),
        ({"allOf": [INTEGER, {"type": "string"}]}, INTEGER, "allOf"),
        (
            {"type": "array", "items": {"not": {}}, "uniqueItems": True},
            {"type": "array", "items": {}},
            "not uniqueItems",
        ),
    ],
    ids=str,
)
def test_schemas(schema: dict[str, Any], rewritten: dict[str, Any], loosened: str) -> None:
    assert held(schema) == (rewritten, loosened)


@pytest.mark.parametrize(
    ("options", "are_exclusive"),
    [
        ([A, B], True),
        ([A, B, C], False),
        ([INTEGER, {"type": "string"}], True),
        ([INTEGER, {"type": "number"}], False),
        ([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], True),
        ([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], False),
        ([A, {"type": "object"}], False),
        ([A, {"$ref": "#/$defs/none"}], False),
        ([A, True], False),
    ],
    ids=str,
)
def test_options_that_exclude_each_other(options: list[Any], are_exclusive: bool) -> None:
    schema = {"$defs": {"a": A, "b": B}, "oneOf": options}
    rewritten, loosened = held(schema)
    assert len(rewritten["anyOf"]) == len(options)
    assert "oneOf" not in rewritten
    assert loosened == ("" if are_exclusive else "oneOf")


def test_what_stands_beside_options_is_put_into_each() -> None:
    beside = {"type": "object", "properties": {"a": INTEGER}}
    rewritten, loosened = held(beside | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]})
    assert not loosened
    assert [option["required"] for option in rewritten["anyOf"]] == [["a"], ["b"]]
    assert [sorted(option["properties"]) for option in rewritten["anyOf"]] == [["a"], ["a", "b"]]


def test_what_is_merged_is_rewritten_inside() -> None:
    inner = {"allOf": [{"type": "string"}, {"minLength": 3}]}
    definitions = {"A": {"type": "object", "properties": {"x": inner}}}
    merged = {
        "type": "object",
        "properties": {"x": {"type": "string", "minLength": 3}, "y": INTEGER},
    }
    also = {"properties": {"y": INTEGER}}
    rewritten, loosened = held({"allOf": [{"$ref": "#/$defs/A"}, also], "$defs": definitions})
    assert {key: rewritten[key] for key in merged} == merged
    rewritten, loosened = held(also | {"anyOf": [{"$ref": "#/$defs/A"}], "$defs": definitions})
    assert rewritten["anyOf"] == [merged]
    assert not loosened


def test_references_are_merged_and_never_followed_forever() -> None:
    base = {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}
    more = {"properties": {"b": INTEGER}, "required": ["b"]}
    rewritten, loosened = held({"$defs": {"base": base}, "allOf": [{"$ref": "#/$defs/base"}, more]})
    assert not loosened
    assert sorted(rewritten["required"]) == sorted(rewritten["properties"]) == ["a", "b"]
    loop = {"allOf": [{"$ref": "#/$defs/x"}, {"required": ["a"]}]}
    assert held({"$defs": {"x": loop}, "$ref": "#/$defs/x"})[1] == "allOf"


@pytest.mark.parametrize("name", [row[0] for row in EVERYDAY])
def test_rewriting_leaves_the_client_s_schema_as_it_is(name: str) -> None:
    [schema] = [row[1] for row in EVERYDAY if row[0] == name]
    before = repr(schema)
    held(schema)
    assert repr(schema) == before


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"type": "integer", "minimum": "0"}, "minimum"),
        ({"properties": {"a": {"type": "object", "required": "b"}}}, "properties/a/required"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "bounds"),
        ({"type": "string", "const": 3}, "no value"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "'a'"),
        ({"$ref": "https://example.org/x"}, "ref"),
    ],
    ids=str,
)
def test_what_is_malformed_or_allows_nothing_is_refused(
    schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        held(schema)
