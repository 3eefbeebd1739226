"""Texts of the data files."""

from typing import Any

__all__ = ["text_of"]


def text_of(text: Any) -> str:
    """A string, or a list of strings and of `[string, count]` one after another."""
    if isinstance(text, str):
        return text
    return "".join(piece if isinstance(piece, str) else piece[0] * piece[1] for piece in text)
