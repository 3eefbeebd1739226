"""JSON that is written in pieces is the JSON of the whole value."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.api.json_text import json_text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
SCALARS = SCALARS.filter(lambda value: value not in (float("inf"), float("-inf")))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(VALUES)
def test_any_value(value: Any) -> None:
    assert json.loads(json_text(value)) == value


def test_long_lists() -> None:
    value: Any = {
        "a": [{"b": [[i] for i in range(100)], "c": ("é", {})} for _ in range(130)],
        "d": [],
    }
    text = json_text(value).decode()
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("size", [0, 1, 64, 500])
def test_iterators_are_lists_whose_elements_are_freed_when_written(size: int) -> None:
    alive: list[None] = []
    most = 0

    class Element(dict[str, int]):
        def __del__(self) -> None:
            alive.pop()

    def elements() -> Iterator[Element]:
        nonlocal most
        for i in range(size):
            alive.append(None)
            most = max(most, len(alive))
            yield Element(i=i)

    assert json.loads(json_text({"a": elements()})) == {"a": [{"i": i} for i in range(size)]}
    assert most <= 128
