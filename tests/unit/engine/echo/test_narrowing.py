"""What the echo engine makes of a guide: the first of what it names, and nothing the guide forbids."""

import pytest
from internvl_server.core import CallableTool, JsonSchema, Regex, ToolCalls
from internvl_server.engine.echo.narrowing import is_binding, narrowed


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
    ],
)
def test_enums(schema, expected):
    assert narrowed(JsonSchema(schema, "p")) == JsonSchema(expected, "p")


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
    assert narrowed(Regex(pattern)) == Regex(first or pattern)


def test_calls():
    calls = ToolCalls((CallableTool("a", {"enum": [{}, 1]}), CallableTool("b", {})), True)
    first = CallableTool("a", {"enum": [{}]})
    assert narrowed(calls) == ToolCalls((first,), True, False)


def test_only_tools_that_may_be_called_bind_nothing():
    tools = (CallableTool("a", {}),)
    for is_required in (True, False):
        assert is_binding(ToolCalls(tools, is_required)) is is_required
    assert is_binding(Regex("a"))
