"""JSON (RFC 8259) judged character by character, so that no text is passed on that cannot be JSON.

A pushdown automaton: constant work a character, where a parser would begin anew with each piece.
"""

from typing import Literal, TypeAlias

__all__ = ["WHITESPACE", "JsonScanner", "State"]

State: TypeAlias = Literal[
    "value", "item", "key", "member", "colon", "after", "string", "escape", "hex", "number", "word",
    "done",
]  # fmt: skip

WHITESPACE = " \t\n\r"

# Deeper values are refused: Python's own parser would run out of stack on them.
_MAX_DEPTH = 100
_WORDS = {"t": "rue", "f": "alse", "n": "ull"}
_ESCAPABLE = '"\\/bfnrt'
_HEX = frozenset("0123456789abcdefABCDEF")
_LEN_HEX_ESCAPE = 6
_REPLACEMENT = "\\ufffd"

# Where in a number one is, and what may follow; "#" is any digit.
_NUMBER: dict[str, dict[str, str]] = {
    "minus": {"0": "zero", "#": "int"},
    "zero": {".": "dot", "e": "exp"},
    "int": {"#": "int", ".": "dot", "e": "exp"},
    "dot": {"#": "frac"},
    "frac": {"#": "frac", "e": "exp"},
    "exp": {"+": "sign", "-": "sign", "#": "power"},
    "sign": {"#": "power"},
    "power": {"#": "power"},
}
_WHOLE_NUMBERS = frozenset({"zero", "int", "frac", "power"})


class JsonScanner:
    """Takes one JSON value, character by character.

    `state` says what is expected next: a `value`, an `item` (or `]`), a `key`, a `member` (a key or `}`),
    a `colon`, what comes `after` a value; or what one is inside of. It is `done` after the value, which
    must be an object, array, string or word: the end of a lone number would not be seen.

    Half a surrogate pair is grammatical in an escape but no text: U+FFFD is passed on in its place.
    """

    def __init__(self) -> None:
        self.state: State = "value"
        self._open: list[str] = []
        self._is_key = False
        self._escape = ""  # an escape not yet whole
        self._high = ""  # the escape of a high surrogate, whose other half must follow
        self._number = ""
        self._word = ""

    @property
    def depth(self) -> int:
        """Objects and arrays that are open."""
        return len(self._open)

    def push(self, char: str) -> str | None:
        """Take a character.

        Returns:
            Text that is certain: the character, or nothing within an escape, or the whole escape at its
            end. None when the text cannot be JSON; the scanner is of no use then.
        """
        if self.state == "number":
            return self._in_number(char)
        if self.state == "string":
            return self._in_string(char)
        if self.state == "escape":
            return self._in_escape(char)
        if self.state == "hex":
            return self._in_hex(char)
        if self.state == "word":
            return self._in_word(char)
        if char in WHITESPACE:
            return char
        return char if self._between(char) else None

    def _between(self, char: str) -> bool:
        """A character of structure, or the first of a value."""
        state = self.state
        if char in "}]":
            return self._close(char)
        if state == "after":
            if char == ",":
                self.state = "key" if self._open[-1] == "{" else "value"
            return char == ","
        if state == "colon":
            self.state = "value"
            return char == ":"
        if state in ("key", "member"):
            self.state, self._is_key = "string", True
            return char == '"'
        return state in ("value", "item") and self._begin_value(char)

    def _begin_value(self, char: str) -> bool:
        if char in "{[":
            self._open.append(char)
            self.state = "member" if char == "{" else "item"
            return len(self._open) <= _MAX_DEPTH
        if char == '"':
            self.state, self._is_key = "string", False
        elif char in _WORDS:
            self.state, self._word = "word", _WORDS[char]
        else:
            self.state = "number"
            self._number = "minus" if char == "-" else _next_in_number("minus", char)
        return bool(self.state != "number" or self._number)

    def _close(self, char: str) -> bool:
        is_open = bool(self._open) and self._open[-1] == ("{" if char == "}" else "[")
        if not is_open or self.state not in ("after", "member" if char == "}" else "item"):
            return False
        self._open.pop()
        self._end_value()
        return True

    def _end_value(self) -> None:
        self.state = "after" if self._open else "done"

    def _in_number(self, char: str) -> str | None:
        following = _next_in_number(self._number, char)
        if following:
            self._number = following
            return char
        if self._number not in _WHOLE_NUMBERS:
            return None
        self._end_value()
        return self.push(char)

    def _in_word(self, char: str) -> str | None:
        if char != self._word[0]:
            return None
        self._word = self._word[1:]
        if not self._word:
            self._end_value()
        return char

    def _in_string(self, char: str) -> str | None:
        if char == "\\":
            self.state, self._escape = "escape", char
            return ""
        if char < " ":
            return None
        if char == '"':
            self.state = "colon"
            if not self._is_key:
                self._end_value()
        return self._lone_half() + char

    def _in_escape(self, char: str) -> str | None:
        self._escape += char
        if char == "u":
            self.state = "hex"
            return ""
        self.state = "string"
        return self._lone_half() + self._escape if char in _ESCAPABLE else None

    def _in_hex(self, char: str) -> str | None:
        if char not in _HEX:
            return None
        self._escape += char
        if len(self._escape) < _LEN_HEX_ESCAPE:
            return ""
        self.state = "string"
        code = int(self._escape[2:], 16)
        if 0xDC00 <= code < 0xE000:  # noqa: PLR2004  (low surrogates)
            pair, self._high = self._high + self._escape if self._high else _REPLACEMENT, ""
            return pair
        before = self._lone_half()
        if 0xD800 <= code < 0xDC00:  # noqa: PLR2004  (high surrogates)
            self._high = self._escape
            return before
        return before + self._escape

    def _lone_half(self) -> str:
        """What stands for a high surrogate whose other half did not follow."""
        was_pending, self._high = bool(self._high), ""
        return _REPLACEMENT if was_pending else ""


def _next_in_number(place: str, char: str) -> str:
    """Where in a number one is after a character; empty where it does not belong to it."""
    following = _NUMBER[place]
    if char in following:
        return following[char]
    if char in "eE":
        return following.get("e", "")
    return following.get("#", "") if char in "0123456789" else ""
