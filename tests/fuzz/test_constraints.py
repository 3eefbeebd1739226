"""What a compiler of grammars gets to see is within the bounds, whatever was asked for."""

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import Grammar, JsonSchema, Regex
from internvl_server.engine.guided.limits import constraint_key

from tests.fuzz.budgets import budget

MAX_DEPTH, MAX_CHARS, MAX_REPEATS = 32, 65_536, 50_000
TOKENS = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\\",
    '"',
    "#",
    "\n",
    "a",
    "*",
    "|",
    "^",
    ",",
    "{9}",
    "{300}",
    "{,9}",
]
PATTERNS = st.lists(
    st.sampled_from(TOKENS) | st.integers(1, 40).map("(".__mul__) | st.integers(1, 40).map(")".__mul__),
    max_size=30,
).map("".join)  # fmt: skip


def depth_and_repeats(pattern: str) -> tuple[int, int]:
    """Read a pattern without classes, escapes and wrong brackets, one character after another."""
    depth = most = 0
    groups, last, most_repeats, place = [1], 1, 1, 0
    while place < len(pattern):
        character = pattern[place]
        if character == "(":
            groups.append(1)
            depth, last = len(groups) - 1, 1
        elif character == ")":
            last = groups.pop()
        elif character == "{":
            end = pattern.index("}", place)
            last *= max(int(n) for n in pattern[place + 1 : end].split(",") if n)
            place = end
        else:
            last = 1
        groups[-1] = max(groups[-1], last)
        most, most_repeats = max(most, depth), max(most_repeats, last)
        place += 1
    return most, most_repeats


GROUPS = st.recursive(
    st.sampled_from(["a", "b{300}", "c{2,7}", "d*"]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join).map("({})".format)
        | inner.map(lambda text: f"({text}){{250}}")
        | st.tuples(inner, st.integers(1, 36)).map(lambda x: "(" * x[1] + x[0] + ")" * x[1])
    ),
    max_leaves=8,
)


@budget(500, 20_000)
@given(pattern=GROUPS)
def test_nested_groups_are_measured(pattern: str) -> None:
    depth, repeats = depth_and_repeats(pattern)
    fits = depth <= MAX_DEPTH and repeats <= MAX_REPEATS
    for constraint in (
        Regex(pattern),
        JsonSchema({"pattern": pattern}),
        Grammar(f"root ::= {pattern}"),
    ):
        try:
            constraint_key(constraint)
        except ValueError:
            assert not fits
        else:
            assert fits


@budget(500, 20_000)
@given(pattern=PATTERNS)
def test_any_text_is_measured(pattern: str) -> None:
    for constraint in (
        Regex(pattern),
        Grammar(pattern),
        JsonSchema({"patternProperties": {pattern: {}}}),
    ):
        with contextlib.suppress(ValueError):
            assert constraint_key(constraint) == constraint_key(constraint)


SCHEMAS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["type", "properties", "items", "enum", "a"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@budget(300, 20_000)
@given(schema=SCHEMAS, depth=st.integers(0, 60), width=st.integers(0, 9000))
def test_schemas_are_measured(schema: Any, depth: int, width: int) -> None:
    nested: Any = {"a": schema, "b": ["x" * 8] * width}
    for _ in range(depth):
        nested = {"items": nested}
    try:
        key = constraint_key(JsonSchema(nested))
    except ValueError:
        return
    assert depth <= MAX_DEPTH
    assert len(json.dumps(json.loads(key[1]), separators=(",", ":"))) <= 3 * MAX_CHARS
