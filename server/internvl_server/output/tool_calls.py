"""Finds tool calls in an answer's text as it comes: the `<tool_call>` blocks of Qwen2.5's format.

What is passed on cannot be taken back, so a block is passed on once it has ended and is known to be a call
or text. If the engine is guided, a call is known to be valid from its beginning, and its arguments are
passed on as they come.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from internvl_server.core import ToolCallDelta, ToolChoice
from internvl_server.output.call_json import (
    WHITESPACE,
    ArgumentsReader,
    Call,
    UnfinishedStringError,
    read_call,
)

__all__ = ["ParsedText", "ToolCallParser"]

_OPEN_TAG = "<tool_call>"
_CLOSE_TAG = "</tool_call>"
# How a guided call begins, and the least that can become such a beginning.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"(?P<name>[\w-]{1,128})"\s*,\s*"arguments"\s*:\s*(?=\{)')
_SHORTEST_HEAD = '{"name":"'
_NOT_A_CALL = re.compile(r"\s*(?:[^\s{]|\{\s*[^\s\"])")

_UP_TO_TAG = re.compile(r"[^>]*>|[^>]+")

_State: TypeAlias = Literal["text", "block", "arguments"]


@dataclass(frozen=True, slots=True)
class ParsedText:
    """Text and pieces of tool calls that are certain. Joined, they do not depend on how the text came."""

    text: str
    tool_calls: tuple[ToolCallDelta, ...] = ()


class ToolCallParser:
    """Finds the calls in one answer.

    Whitespace around calls is dropped; between two texts it stays. A block that is not a call of a known
    tool is text, as it was written. With `is_single` the first call ends the answer. `has_cut_call` is true
    after `flush` if the beginning of the last call was passed on and its arguments are incomplete.

    Args:
        choice: Which tools may be called, and whether more than once.
        tool_names: The tools there are.
        new_id: Makes the id of a call.
        is_guided: Whether the engine holds the answer to the format.
    """

    def __init__(
        self,
        choice: ToolChoice,
        tool_names: Collection[str],
        new_id: Callable[[], str],
        *,
        is_guided: bool = True,
    ) -> None:
        self.is_single = not choice.is_parallel
        self._names = frozenset(tool_names) & frozenset(choice.names or tool_names)
        self._new_id = new_id
        self._is_guided = is_guided
        self._readers = {
            "text": self._read_text,
            "block": self._read_block,
            "arguments": self._read_arguments,
        }
        self._state: _State = "text"
        self._buffer = ""  # what has not been read
        self._num_searched = 0  # characters of a block in which no closing tag begins
        self._arguments = ArgumentsReader()
        self._gap = ""  # whitespace that may come before a call
        self._has_text = False
        self._num_ended = 0
        self._text: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self.num_calls = 0
        self.has_cut_call = False

    @property
    def is_complete(self) -> bool:
        """Whether there can be no further call, so that the answer is over."""
        return self.is_single and self._num_ended > 0

    def read(self, text: str, *, is_last: bool) -> list[ParsedText]:
        """As `push`, and at the end `flush`: in several parts if text follows a call.

        Args:
            text: More of the answer's text.
            is_last: Whether no text will follow.
        """
        # Only the end of a tag ends a call, so that no piece has text after one.
        parsed = [self.push(piece) for piece in _UP_TO_TAG.findall(text)]
        if is_last or self.is_complete:
            parsed.append(self.flush())
        parts = [ParsedText("")]
        for piece in parsed:
            if piece.text and parts[-1].tool_calls:
                parts.append(piece)
            else:
                parts[-1] = ParsedText(
                    parts[-1].text + piece.text, parts[-1].tool_calls + piece.tool_calls
                )
        return parts

    def push(self, text: str) -> ParsedText:
        """Take more of the answer's text. It is ignored once the answer is complete."""
        self._buffer += text
        self._read()
        return self._taken()

    def flush(self) -> ParsedText:
        """What is left when no text will follow.

        A call without its closing tag is a call. An incomplete call is text if the engine was not guided.
        If it was guided, only the answer's length can have cut the call, which is dropped.
        """
        while self._state == "block" and not self.is_complete:
            self._finish_block()
            self._read()
        self.has_cut_call = self._state == "arguments" and not self._arguments.is_whole
        is_text = self._state == "text" and not self.is_complete
        if is_text and (self._buffer or not self.num_calls):
            self._say(self._buffer)
        self._buffer = ""
        return self._taken()

    def _taken(self) -> ParsedText:
        parsed = ParsedText("".join(self._text), tuple(self._calls))
        self._text, self._calls = [], []
        return parsed

    def _read(self) -> None:
        while not self.is_complete and self._readers[self._state]():
            pass

    def _read_text(self) -> bool:
        """Pass text on up to an opening tag. Returns, as all readers do, whether there is more to read."""
        before, tag, after = self._buffer.partition(_OPEN_TAG)
        num_held = 0 if tag else _num_of_tag(before, _OPEN_TAG)
        end = len(before) - num_held
        self._say_but_end(before[:end])
        if not tag:
            self._buffer = before[end:]
            return False
        self._state, self._buffer, self._num_searched = "block", after, 0
        return True

    def _read_block(self) -> bool:
        """Begin a guided call, or wait for the end of the block."""
        head = _HEAD.match(self._buffer) if self._is_guided else None
        if head is not None and head["name"] in self._names:
            self._arguments = ArgumentsReader()
            self._begin_call(Call(head["name"], self._arguments.push(self._buffer[head.end() :])))
            self._state, self._buffer = "arguments", ""
            return True
        if _NOT_A_CALL.match(self._buffer):
            return self._refuse_block()
        end = self._buffer.find(_CLOSE_TAG, self._num_searched)
        if end < 0:
            self._num_searched = max(0, len(self._buffer) - len(_CLOSE_TAG) + 1)
            return False
        try:
            call = read_call(self._buffer[:end], self._names)
        except UnfinishedStringError:  # the tag is part of it
            self._num_searched = end + 1
            return True
        return self._refuse_block() if call is None else self._take_block(call, end)

    def _finish_block(self) -> None:
        """Decide about a block that the end of the answer cut off."""
        end = len(self._buffer) - _num_of_tag(self._buffer, _CLOSE_TAG)
        try:
            call = read_call(self._buffer[:end], self._names)
        except UnfinishedStringError:
            call = None
        if call is not None:
            self._take_block(call, end)
        elif self._is_guided and _may_become_head(self._buffer):
            self._state, self._buffer, self._gap = "text", "", ""
        else:
            self._refuse_block()

    def _take_block(self, call: Call, end: int) -> bool:
        self._begin_call(call)
        return self._end_call(self._buffer[end + len(_CLOSE_TAG) :])

    def _refuse_block(self) -> bool:
        """Pass the tag on as text. What follows is read again, because it may contain another tag."""
        self._say(_OPEN_TAG)
        self._state = "text"
        return True

    def _read_arguments(self) -> bool:
        """Pass the arguments of a guided call on as they come; drop what follows them in the block."""
        if arguments := self._arguments.push(self._buffer):
            self._calls.append(ToolCallDelta(self.num_calls - 1, arguments=arguments))
        self._buffer = ""
        _, tag, after = self._arguments.rest.partition(_CLOSE_TAG)
        return bool(self._arguments.is_whole and tag) and self._end_call(after)

    def _begin_call(self, call: Call) -> None:
        self._calls.append(ToolCallDelta(self.num_calls, self._new_id(), *call))
        self.num_calls += 1

    def _end_call(self, after: str) -> bool:
        self._state, self._buffer, self._gap = "text", after, ""
        self._num_ended += 1
        return True

    def _say_but_end(self, text: str) -> None:
        """Pass text on, but hold back whitespace at its end."""
        certain = text.rstrip(WHITESPACE)
        if certain:
            self._say(certain)
        self._gap += text[len(certain) :]

    def _say(self, text: str) -> None:
        """Pass on text after the whitespace before it, which is dropped where only calls came before."""
        text, self._gap = self._gap + text, ""
        if self.num_calls and not self._has_text:
            text = text.lstrip(WHITESPACE)
        self._has_text |= bool(text)
        self._text.append(text)


def _may_become_head(text: str) -> bool:
    """Whether the text may be the beginning of a guided call."""
    written = "".join(text.split())
    return written.startswith(_SHORTEST_HEAD) or _SHORTEST_HEAD.startswith(written)


def _num_of_tag(text: str, tag: str) -> int:
    """Characters at the end that may be the beginning of a tag."""
    most = min(len(tag) - 1, len(text))
    return next((n for n in range(most, 0, -1) if text.endswith(tag[:n])), 0)
