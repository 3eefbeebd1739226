"""Converts text deltas to content blocks, and to the events of a stream.

A streamed and a whole message have the same blocks; the events of a whole message are not sent.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

from internvl_server.core import TextDelta, ToolCallDelta
from internvl_server.protocol.tools import read_arguments, read_begun_arguments

__all__ = ["ContentBlocks", "Event"]

Event: TypeAlias = dict[str, Any]

# Clients send reasoning back only with a signature. It is left out of prompts here, so nothing is signed.
_SIGNATURE = "unsigned"


class _Text:
    """A block of text that is being generated."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def begin(self) -> dict[str, Any]:
        return {"type": "text", "text": ""}

    def delta(self, text: str) -> dict[str, Any]:
        self.pieces.append(text)
        return {"type": "text_delta", "text": text}

    def json(self) -> dict[str, Any]:
        return {"type": "text", "text": "".join(self.pieces)}


class _Thinking:
    """The reasoning before an answer."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def begin(self) -> dict[str, Any]:
        return {"type": "thinking", "thinking": "", "signature": ""}

    def delta(self, text: str) -> dict[str, Any]:
        self.pieces.append(text)
        return {"type": "thinking_delta", "thinking": text}

    def json(self) -> dict[str, Any]:
        return {"type": "thinking", "thinking": "".join(self.pieces), "signature": _SIGNATURE}


class _ToolUse:
    """A call of a tool that is being generated."""

    def __init__(self, first: ToolCallDelta) -> None:
        self.pieces: list[str] = []
        self.number = first.index
        self._head = {
            "type": "tool_use",
            "id": f"toolu_{(first.id or '').removeprefix('call_')}",
            "name": first.name,
        }

    def begin(self) -> dict[str, Any]:
        return {**self._head, "input": {}}

    def delta(self, arguments: str) -> dict[str, Any]:
        self.pieces.append(arguments)
        return {"type": "input_json_delta", "partial_json": arguments}

    def json(self) -> dict[str, Any]:
        """The block; an input that the end of the answer cut off has the members that were written."""
        written = "".join(self.pieces)
        value = read_arguments(written)
        return {**self._head, "input": read_begun_arguments(written) if value is None else value}


class ContentBlocks:
    """The content of a message that is being generated.

    Reasoning goes into one block, text into another, and each tool call into one more, in the order of the
    answer.
    """

    def __init__(self) -> None:
        self._open: _Thinking | _Text | _ToolUse | None = None
        self._done: list[dict[str, Any]] = []
        self._num_begun = 0

    @property
    def json(self) -> list[dict[str, Any]]:
        """The blocks that have ended. An answer without any is an empty text."""
        return self._done or [_Text().json()]

    def push(self, delta: TextDelta) -> Iterator[Event]:
        """Add a delta of the answer and yield its events."""
        if delta.reasoning:
            yield from self._text(delta.reasoning, _Thinking)
        if delta.text:
            yield from self._text(delta.text)
        for piece in delta.tool_calls:
            yield from self._call(piece)
        if delta.refusal:
            yield from self._begin(_Text())
            yield from self._text(delta.refusal)
        if delta.finish_reason is not None:
            if not self._num_begun:
                yield from self._begin(_Text())
            yield from self._end()

    def _text(self, text: str, kind: type[_Thinking | _Text] = _Text) -> Iterator[Event]:
        block = self._open
        if not isinstance(block, kind):
            block = kind()
            yield from self._begin(block)
        yield self._event("content_block_delta", delta=block.delta(text))

    def _call(self, piece: ToolCallDelta) -> Iterator[Event]:
        block = self._open
        if not isinstance(block, _ToolUse) or block.number != piece.index:
            block = _ToolUse(piece)
            yield from self._begin(block)
        if piece.arguments:
            yield self._event("content_block_delta", delta=block.delta(piece.arguments))

    def _begin(self, block: _Thinking | _Text | _ToolUse) -> Iterator[Event]:
        yield from self._end()
        self._open = block
        self._num_begun += 1
        yield self._event("content_block_start", content_block=block.begin())

    def _end(self) -> Iterator[Event]:
        if self._open is None:
            return
        self._done.append(self._open.json())
        if isinstance(self._open, _Thinking):
            signature = {"type": "signature_delta", "signature": _SIGNATURE}
            yield self._event("content_block_delta", delta=signature)
        self._open = None
        yield self._event("content_block_stop")

    def _event(self, kind: str, **members: Any) -> Event:  # noqa: ANN401  (any JSON value)
        return {"type": kind, "index": self._num_begun - 1, **members}
