"""The JSON of one tool call: `{"name": …, "arguments": …}`, read as a whole or as it comes."""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple, NoReturn

__all__ = ["WHITESPACE", "ArgumentsReader", "Call", "UnfinishedStringError", "read_call"]

WHITESPACE = " \t\n\r"

_HEX = "[0-9a-fA-F]"
_HIGH = rf"\\u[dD][89abAB]{_HEX}{{2}}"
_LOW = rf"\\u[dD][c-fC-F]{_HEX}{{2}}"
_MAY_BECOME_LOW = rf"(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?\Z"
# JSON in pieces that must not be split. Half a surrogate pair is valid in JSON, but it is not text.
_PIECE = re.compile(
    rf"(?P<half>{_HIGH}(?!{_LOW}|{_MAY_BECOME_LOW})|{_LOW})"
    rf'|{_HIGH}{_LOW}|\\u(?![dD][89a-fA-F]){_HEX}{{4}}|\\[^u]|["{{}}]|[^"\\{{}}]+'
)


class Call(NamedTuple):
    """A call. `arguments` is JSON text of an object."""

    name: str
    arguments: str


class UnfinishedStringError(ValueError):
    """The text ends within a string."""


class ArgumentsReader:
    """Passes on a JSON object as its text arrives. The text must be valid; more text may follow the object.

    Escapes are passed on whole. Half of a surrogate pair becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self.is_whole = False
        self.rest = ""
        """Text that has not been passed on: what follows the object once it is whole."""

    def push(self, text: str) -> str:
        """The part of the object that is certain now."""
        text = self.rest + text
        passed, end = "", 0
        while not self.is_whole and (piece := _PIECE.match(text, end)):
            end = piece.end()
            passed += _mended(piece)
            self._count(piece[0])
        self.rest = text[end:]
        return passed

    def _count(self, piece: str) -> None:
        if piece == '"':
            self._is_in_string = not self._is_in_string
        elif not self._is_in_string and piece in "{}":
            self._depth += 1 if piece == "{" else -1
            self.is_whole = not self._depth


def read_call(text: str, names: Collection[str]) -> Call | None:
    """Read a call; None if the text is not one.

    The members may be in either order, and there may be others. `arguments` may be an object, JSON text
    of one, null or missing; the last two mean `{}`.

    Args:
        text: Everything between the tags.
        names: Tools that may be called.

    Raises:
        UnfinishedStringError: The text may be a call but ends within a string.
    """
    try:
        members = _members(text.strip(WHITESPACE))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg.startswith("Unterminated string"):
            raise UnfinishedStringError from None
        return None
    name, _ = members.get("name", (None, ""))
    arguments = _object_text(*members.get("arguments", (None, "null")))
    if not isinstance(name, str) or name not in names or arguments is None:
        return None
    return Call(name, arguments)


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """The members of a JSON object: of each the value, and how it is written.

    Raises:
        ValueError: The text is not a JSON object without repeated names.
    """
    members: dict[str, tuple[Any, str]] = {}
    end = _skip("{", text, 0)
    while True:
        name, end = _JSON.raw_decode(text, end)
        start = _skip(":", text, end)
        value, end = _JSON.raw_decode(text, start)
        if not isinstance(name, str) or name in members:
            raise ValueError(name)
        members[name] = value, text[start:end]
        if _END.match(text, end):
            return members
        end = _skip(",", text, end)


def _skip(mark: str, text: str, start: int) -> int:
    """Where a mark and the whitespace around it end."""
    found = _MARK.match(text, start)
    if found is None or found[1] != mark:
        raise ValueError(mark)
    return found.end()


def _object_text(value: object, written: str) -> str | None:
    """Arguments as JSON text of an object; None when they are not an object."""
    written = _PIECE.sub(_mended, written)
    if isinstance(value, dict):
        return written
    if value is not None and not isinstance(value, str):
        return None
    text = (_JSON.decode(written) or "").strip(WHITESPACE) or "{}"
    try:
        return _PIECE.sub(_mended, text) if isinstance(_JSON.decode(text), dict) else None
    except (ValueError, RecursionError):
        return None


def _mended(piece: re.Match[str]) -> str:
    return r"\ufffd" if piece["half"] else piece[0]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


# Numbers become floats because Python refuses to read very long integers. NaN and Infinity are not JSON.
_JSON = json.JSONDecoder(parse_int=float, parse_constant=_refuse)
_MARK = re.compile(r"[ \t\n\r]*([{:,])[ \t\n\r]*")
_END = re.compile(r"[ \t\n\r]*\}\Z")
