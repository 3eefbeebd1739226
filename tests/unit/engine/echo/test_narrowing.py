"""What the echo engine makes of a guide: the first of what it names, and nothing the guide forbids."""

import json

import pytest
from internvl_server.core import Guide
from internvl_server.engine.echo.narrowing import is_binding, narrowed


def narrowed_json(kind, source):
    guide = narrowed(Guide(kind, json.dumps(source), "p"))
    assert (guide.kind, guide.param) == (kind, "p")
    return json.loads(guide.source)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"enum": ["b", "a"]}, {"enum": ["b"]}),
        ({"items": [{"enum": [2, 1]}]}, {"items": [{"enum": [2]}]}),
        # Values that look like schemas, and names that look like keywords.
        ({"const": {"enum": [1, 2]}}, {"const": {"enum": [1, 2]}}),
        ({"enum": [{"enum": [1, 2]}, 3]}, {"enum": [{"enum": [1, 2]}]}),
        ({"properties": {"const": {"enum": [1, 2]}}}, {"properties": {"const": {"enum": [1]}}}),
        ({"properties": {"enum": {"type": "null"}}}, {"properties": {"enum": {"type": "null"}}}),
        (True, True),
    ],
)
def test_enums(schema, expected):
    assert narrowed_json("json_schema", schema) == expected


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("(red)|(blue)", "(red)"),
        (r"(a\)\|\[)|(b)", r"(a\)\|\[)"),
        ("(a\\\nb)|(c)", "(a\\\nb)"),
        ("(ab)c|(d)", None),
        ("x|(y)", None),
        ("([)|(])", None),
        ("((a)|b)", None),
        ("(a)", None),
    ],
)
def test_choices(pattern, first):
    guide = Guide("regex", pattern)
    assert narrowed(guide).source == (first or pattern)


def test_calls():
    tools = [{"name": "a", "parameters": {"enum": [{}, 1]}}, {"name": "b", "parameters": {}}]
    spec = {"tools": tools, "is_required": True, "is_parallel": True}
    first = {"name": "a", "parameters": {"enum": [{}]}}
    assert narrowed_json("tool_calls", spec) == spec | {"tools": [first], "is_parallel": False}


def test_only_tools_that_may_be_called_bind_nothing():
    spec = {"tools": [{"name": "a"}], "is_parallel": True}
    for is_required in (True, False):
        source = json.dumps(spec | {"is_required": is_required})
        assert is_binding(Guide("tool_calls", source)) is is_required
    assert is_binding(Guide("regex", "a"))
