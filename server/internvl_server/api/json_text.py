"""Writes JSON in pieces: a writer in C holds the interpreter lock until it has written all it was given."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic_core import to_json

__all__ = ["json_text"]

# Elements that are written at once. Those of log probabilities have twenty objects each.
_SLICE = 64


def json_text(value: Any) -> bytes:  # noqa: ANN401  (any JSON value)
    """A value as compact JSON. CPU-bound for large values; long lists are written in slices.

    An iterator is written as a list, and what it makes is freed at once: freeing hundreds of thousands of
    objects together would hold the lock as well.
    """
    return b"".join(_pieces(value))


def _pieces(value: Any) -> Iterator[bytes]:  # noqa: ANN401  (any JSON value)
    if isinstance(value, dict):
        opening = b"{"
        for name, member in value.items():
            yield opening + to_json(name) + b":"
            yield from _pieces(member)
            opening = b","
        yield b"}" if value else b"{}"
    elif isinstance(value, Iterator) or (isinstance(value, list | tuple) and len(value) > _SLICE):
        elements = iter(value)
        opening = b"["
        while part := list(islice(elements, _SLICE)):
            yield opening + to_json(part, inf_nan_mode="null")[1:-1]
            opening = b","
        yield b"[]" if opening == b"[" else b"]"
    elif isinstance(value, list | tuple):
        opening = b"["
        for element in value:
            yield opening
            yield from _pieces(element)
            opening = b","
        yield b"]" if value else b"[]"
    else:
        yield to_json(value, inf_nan_mode="null")
