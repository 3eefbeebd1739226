"""Comparing finished JSON with the client's schema."""

import json
from typing import Any

import pytest
from internvl_server.engine.guided.checker import violation_of

from tests.everyday_schemas import EVERYDAY

DRAFT_7 = "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    ("name", "schema", "good", "bad"), EVERYDAY, ids=lambda value: str(value)[:20]
)
def test_everyday_schemas(name: str, schema: Any, good: Any, bad: Any) -> None:
    assert violation_of(json.dumps(good), schema) is None
    assert violation_of(json.dumps(bad), schema)


@pytest.mark.parametrize(
    ("schema", "value", "place"),
    [
        ({"type": "array", "uniqueItems": True}, [1, 1], "'uniqueItems' at $)"),
        ({"properties": {"ä": {"items": {"not": {"const": 3}}}}}, {"ä": [1, 3]}, "'not' at $[\"ä\"][1])"),
        ({"type": "number", "multipleOf": 0.1}, 0.25, "'multipleOf'"),
        ({"type": "string", "pattern": "^(?!a)"}, "ab", "'pattern'"),
        ({"type": "string", "format": "date"}, "2021-02-29", "'format'"),
        # As drafts before 2020-12 have it, whatever `$schema` says.
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 0, "'exclusiveMinimum'"),
        ({"items": [{"type": "integer"}], "additionalItems": False}, [1, 2], "'items'"),
        ({"properties": {"a": {}}, "dependencies": {"a": ["b"]}}, {"a": 1}, "'dependentRequired'"),
        ({"dependencies": {"a": {"minProperties": 2}}}, {"a": 1}, "'minProperties'"),
        ({"$schema": DRAFT_7, "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
          "dependentRequired": {"a": ["b"]}}, {"a": {"a": None}, "b": 1}, "at $[\"a\"]"),
        ({"definitions": {"a": {"type": "integer"}}, "$ref": "#/definitions/a"}, "x", "'type'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_violation_names_keyword_and_place(schema: Any, value: Any, place: str) -> None:
    assert place in str(violation_of(json.dumps(value), schema))


def test_what_is_shown_after_the_answer_does_not_hide_a_violation() -> None:
    assert violation_of(" [1, 1]<|im_end|>", {"uniqueItems": True})
    assert violation_of(" [1, 2]<|im_end|>", {"uniqueItems": True}) is None


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, '{"a": '),  # cut
        ({"type": "string", "pattern": r"^\p{L}$"}, '"1"'),  # Python does not know it
        ({"type": "string", "format": "nonsense"}, '"x"'),
        ({"type": "integer", "description": None, "minimum": None}, "1"),
    ],
    ids=str,
)
def test_what_is_no_violation(schema: Any, text: str) -> None:
    assert violation_of(text, schema) is None


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: object) -> None:
        pytest.fail("dialled out")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    violation = violation_of("1", {"$ref": "https://example.org/schema"})
    assert "could not be compared" in str(violation)
