"""One `<tool_call>` block: which tool is called, and its arguments as they come."""

import json
from collections.abc import Collection
from typing import Literal, TypeAlias

from internvl_server.output.json_scanner import WHITESPACE, JsonScanner

__all__ = ["CLOSE_TAG", "CallReader", "Step"]

CLOSE_TAG = "</tool_call>"

Step: TypeAlias = Literal["more", "ended", "invalid"]


class CallReader:
    """Reads `{"name": …, "arguments": …}` and the closing tag.

    The members may come in either order and others beside them. `arguments` may be an object, JSON text
    of one, null or missing; the last two mean `{}`.

    Args:
        names: Tools that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._scanner = JsonScanner()
        self._raw: list[str] = []
        self._num_closing = 0  # characters of the closing tag seen
        self._text: list[str] | None = None  # of a key or a short value being read
        self._member = ""
        self._seen: set[str] = set()
        self._pieces: list[str] = []
        self.name: str | None = None
        self.is_whole = False  # the arguments have ended

    @property
    def raw(self) -> str:
        """The block so far, as it was written, without what made it invalid."""
        return "".join(self._raw)

    @property
    def is_ready(self) -> bool:
        """Whether it is known which tool is called and that there are arguments."""
        return self.name is not None and bool(self._pieces)

    @property
    def is_closed(self) -> bool:
        """Whether the JSON is whole; only the closing tag may be missing."""
        return self._scanner.state == "done"

    def take(self) -> str:
        """Text of the arguments that was not taken yet."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text

    def push(self, char: str) -> Step:
        """Take a character."""
        is_valid = self._closing(char) if self.is_closed else self._in_object(char)
        if not is_valid:
            return "invalid"
        self._raw.append(char)
        return "ended" if self._num_closing == len(CLOSE_TAG) else "more"

    def _closing(self, char: str) -> bool:
        if char == CLOSE_TAG[self._num_closing]:
            self._num_closing += 1
            return True
        return not self._num_closing and char in WHITESPACE

    def _in_object(self, char: str) -> bool:
        scanner = self._scanner
        depth, state = scanner.depth, scanner.state
        passed = scanner.push(char)
        if passed is None:
            return False
        if not depth:
            return char == "{" or char in WHITESPACE
        is_start = depth == 1 and char not in WHITESPACE
        if is_start and state in ("key", "member"):
            self._member, self._text = "", []
        elif is_start and state == "value" and not self._begin_value(char):
            return False
        if self._text is not None:
            self._text.append(passed)
        elif "arguments" in self._seen and not self.is_whole:
            self._pieces.append(passed)
        return self._after()

    def _begin_value(self, char: str) -> bool:
        """Whether the member may begin so. A string or null is kept until its end, an object passed on."""
        if self._member in self._seen:
            return False
        if self._member == "name":
            self._seen.add("name")
            self._text = []
            return char == '"'
        if self._member == "arguments":
            self._seen.add("arguments")
            self._text = None if char == "{" else []
            return char in '{"n'
        return True

    def _after(self) -> bool:
        """What a key, a value or the object says once it has ended."""
        state = self._scanner.state
        if state == "done":
            if "arguments" not in self._seen:
                self._end_arguments("{}")
            return self.name is not None
        if self._scanner.depth != 1:
            return True
        if state == "colon" and self._text is not None:
            self._member, self._text = json.loads("".join(self._text)), None
        elif state == "after" and self._text is not None:
            value, self._text = json.loads("".join(self._text)), None
            return self._take_value(value)
        elif state == "after" and self._member == "arguments":
            self.is_whole = True
        return True

    def _take_value(self, value: str | None) -> bool:
        if self._member == "name":
            self.name = value
            return value in self._names
        text = _object_text(value)
        if text is not None:
            self._end_arguments(text)
        return text is not None

    def _end_arguments(self, text: str) -> None:
        self._pieces.append(text)
        self.is_whole = True


def _object_text(value: str | None) -> str | None:
    """Arguments that came as a string, as JSON text of an object; None when they are not."""
    text = (value or "").strip(WHITESPACE)
    if not text:
        return "{}"
    scanner = JsonScanner()
    passed: list[str] = []
    for char in text:
        piece = scanner.push(char) if scanner.state != "done" else None
        if piece is None:
            return None
        passed.append(piece)
    return "".join(passed) if text[0] == "{" and scanner.state == "done" else None
