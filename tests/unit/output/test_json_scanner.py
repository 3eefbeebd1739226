import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.output.json_scanner import JsonScanner

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
JSON_LIKE = st.text(alphabet='{}[]",:0123456789.eE+-truefalsn\\/uDdCc8 \n', max_size=30)


def scanned(text: str) -> str | None:
    """What is passed on of a whole value in an array; None when it is no JSON."""
    scanner = JsonScanner()
    passed = ""
    for char in f"[{text}]":
        piece = None if scanner.state == "done" else scanner.push(char)
        if piece is None:
            return None
        passed += piece
    return passed[1:-1] if scanner.state == "done" else None


def is_json(text: str) -> bool:
    """By Python's parser; NaN and Infinity, which it takes, are not JSON."""
    try:
        json.loads(f"[{text}]", parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)


@given(value=VALUES, indent=st.none() | st.integers(0, 2), is_ascii=st.booleans())
def test_json_passes_unchanged(value: object, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    assert scanned(text) == text


@given(text=JSON_LIKE)
def test_what_passes_is_json_and_what_does_not_is_not(text: str) -> None:
    passed = scanned(text)
    assert (passed is not None) == is_json(text)
    if passed is not None:
        json.dumps(json.loads(f"[{passed}]"), ensure_ascii=False).encode()  # whole characters


@given(value=VALUES, data=st.data())
def test_one_changed_character_is_judged_as_python_does(value: object, data: st.DataObject) -> None:
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(st.text(max_size=2)) + text[at + 1 :]
    assert (scanned(changed) is not None) == is_json(changed)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"'),
        (r'"\ud83d"', r'"\ufffd"'),
        (r'"\ude00x"', r'"\ufffdx"'),
        (r'"\ud83d\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
        (r'"\ud83d\n"', r'"\ufffd\n"'),
        (r'"\ud83dé"', r'"\ufffdé"'),
    ],
)
def test_half_a_surrogate_pair_is_replaced(text: str, passed: str) -> None:
    assert scanned(text) == passed


def test_an_escape_is_passed_on_whole() -> None:
    scanner = JsonScanner()
    pieces = [scanner.push(char) for char in r'"\u00e9\ud83d\ude00"']
    assert [p for p in pieces if p] == ['"', r"\u00e9", r"\ud83d\ude00", '"']


@pytest.mark.parametrize(("depth", "is_taken"), [(99, True), (100, False)])
def test_depth_is_bounded(depth: int, is_taken: bool) -> None:
    assert (scanned("[" * depth + "]" * depth) is not None) == is_taken
