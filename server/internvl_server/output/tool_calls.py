"""An answer's text, as it comes, to text and tool calls: the `<tool_call>` blocks of Qwen2.5's format.

What is passed on cannot be taken back, so a call's arguments are passed on only while they are the
beginning of valid JSON, and text only when it cannot become a tag.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from internvl_server.core import ToolCallDelta, ToolChoice
from internvl_server.output.call_reader import CLOSE_TAG, CallReader
from internvl_server.output.json_scanner import WHITESPACE

__all__ = ["ParsedText", "ToolCallParser"]

_OPEN_TAG = "<tool_call>"


@dataclass(frozen=True, slots=True)
class ParsedText:
    """Text and pieces of tool calls that are certain. Joined, they do not depend on how the text came."""

    text: str
    tool_calls: tuple[ToolCallDelta, ...] = ()


class ToolCallParser:
    """Finds the calls in one answer.

    Whitespace around calls is dropped; between two texts it stays. A block that is no call of a known
    tool is text, as it was written. A call whose beginning was passed on before it broke off stays and
    `has_cut_call` tells of it, so that an answer given as a whole can leave it out.

    Args:
        choice: Which tools may be called, and whether more than once.
        tool_names: The tools there are.
        new_id: Makes the id of a call.
        is_guided: Whether the engine holds the answer to the format. If so, arguments are passed on as
            they come. If not, each call is passed on when it has ended and is known to be valid.
    """

    def __init__(
        self,
        choice: ToolChoice,
        tool_names: Collection[str],
        new_id: Callable[[], str],
        *,
        is_guided: bool = True,
    ) -> None:
        self._is_parallel = choice.is_parallel
        self._names = frozenset(tool_names) & frozenset(choice.names or tool_names)
        self._new_id = new_id
        self._is_guided = is_guided
        self._gap: list[str] = []  # whitespace that may come before a call
        self._held = ""  # what may become a tag
        self._block: CallReader | None = None
        self._has_begun = False  # the block's call has
        self._is_broken = False  # the block's call has begun and what follows is no JSON
        self._has_text = False
        self._num_ended = 0
        self._text: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self.num_calls = 0
        self.has_cut_call = False

    @property
    def is_complete(self) -> bool:
        """Whether there can be no further call, so that the answer is over."""
        return not self._is_parallel and self._num_ended > 0

    def push(self, text: str) -> ParsedText:
        """Take more of the answer's text. It is ignored once the answer is complete."""
        rest = text
        while rest and not self.is_complete:
            if self._is_broken:
                rest = self._skip(rest)
            elif self._block is None:
                rest = self._read_text(rest)
            else:
                rest = self._read_block(self._block, rest)
        return self._taken()

    def flush(self) -> ParsedText:
        """What is left when no text will follow.

        The unfinished beginning of a call: as text when the answer was free, nothing when it was guided,
        because then only its length can have cut it.
        """
        block, self._block = self._block, None
        if self._is_broken or self.is_complete:
            return self._taken()
        if block is not None and block.is_closed:
            self._end(block)
        elif block is not None and self._has_begun:
            self._pass_on(block)
            self.has_cut_call |= not block.is_whole
        elif block is not None and not self._is_guided:
            self._say(_OPEN_TAG + block.raw)
        elif block is None and (self._held or not self.num_calls):
            self._say(self._held)
        self._gap, self._held = [], ""
        return self._taken()

    def _taken(self) -> ParsedText:
        parsed = ParsedText("".join(self._text), tuple(self._calls))
        self._text, self._calls = [], []
        return parsed

    def _read_text(self, rest: str) -> str:
        """Pass text on up to a tag; what is to be read after the tag."""
        text = self._held + rest
        start = text.find(_OPEN_TAG)
        end = start if start >= 0 else len(text) - _num_of_tag(text)
        self._say_but_end(text[:end])
        if start < 0:
            self._held = text[end:]
            return ""
        self._held, self._block, self._has_begun = "", CallReader(self._names), False
        return text[start + len(_OPEN_TAG) :]

    def _read_block(self, block: CallReader, rest: str) -> str:
        """Take a block's characters; what is to be read after it."""
        for index, char in enumerate(rest):
            step = block.push(char)
            if step == "ended":
                self._end(block)
                return rest[index + 1 :]
            if step == "invalid":
                self._break(block)
                return rest[index:]
        self._pass_on(block)
        return ""

    def _end(self, block: CallReader) -> None:
        self._pass_on(block, has_ended=True)
        self._gap, self._block = [], None
        self._num_ended += 1

    def _break(self, block: CallReader) -> None:
        """The block is no call: text then, unless its beginning was passed on."""
        self._pass_on(block)
        if self._has_begun:
            self.has_cut_call |= not block.is_whole
            self._gap, self._is_broken = [], True
            return
        written = _OPEN_TAG + block.raw
        end = len(written) - _num_of_tag(written)
        self._say_but_end(written[:end])
        self._held, self._block = written[end:], None

    def _skip(self, rest: str) -> str:
        """Drop the rest of a broken block; what is to be read after it."""
        text = self._held + rest
        start = text.find(CLOSE_TAG)
        if start < 0:
            self._held = text[1 - len(CLOSE_TAG) :]
            return ""
        self._held, self._block, self._is_broken = "", None, False
        self._num_ended += 1
        return text[start + len(CLOSE_TAG) :]

    def _pass_on(self, block: CallReader, *, has_ended: bool = False) -> None:
        if self._has_begun:
            if arguments := block.take():
                self._calls.append(ToolCallDelta(self.num_calls - 1, arguments=arguments))
        elif block.is_ready and (has_ended or self._is_guided):
            self._has_begun = True
            self.num_calls += 1
            delta = ToolCallDelta(self.num_calls - 1, self._new_id(), block.name, block.take())
            self._calls.append(delta)

    def _say_but_end(self, text: str) -> None:
        """Pass text on but for whitespace at its end."""
        certain = text.rstrip(WHITESPACE)
        if certain:
            self._say(certain)
        self._gap.append(text[len(certain) :])

    def _say(self, text: str) -> None:
        """Pass on text after the whitespace before it, which is dropped where only calls came before."""
        text = "".join(self._gap) + text
        self._gap = []
        if self.num_calls and not self._has_text:
            text = text.lstrip(WHITESPACE)
        self._has_text |= bool(text)
        self._text.append(text)


def _num_of_tag(text: str) -> int:
    """Characters at the end that may be the beginning of a tag."""
    most = min(len(_OPEN_TAG) - 1, len(text))
    return next((n for n in range(most, 0, -1) if text.endswith(_OPEN_TAG[:n])), 0)
