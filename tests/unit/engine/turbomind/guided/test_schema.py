"""Malformed schemas are the client's fault: a `ValueError`, never another exception."""

import math

import pytest
from internvl_server.engine.turbomind.guided.schema import native_schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "format": []}, "the format"),
        ({"type": "string", "format": {}}, "the format"),
        ({"type": "object", "properties": {}, "required": [{}]}, "'required' names"),
        ({"type": "integer", "minimum": math.inf}, "must be a whole number"),
        ({"type": "integer", "minimum": 0.5}, "must be a whole number"),
        ({"type": "integer", "minimum": True}, "must be a whole number"),
        ({"type": "integer", "minimum": [0]}, "must be a whole number"),
    ],
    ids=str,
)
def test_a_malformed_schema_is_a_value_error(schema: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        native_schema(schema)


def test_a_bound_may_be_written_as_a_float() -> None:
    assert native_schema({"type": "integer", "minimum": 1.0}) == {"type": "integer", "minimum": 1}
