"""Converts text deltas to output items, and to the events of a stream.

A streamed and a whole answer have the same items; the events of a whole answer are not sent.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from internvl_server.core import TextDelta, TextLogprobs, ToolCallDelta, Usage
from internvl_server.protocol.chat.render import logprobs_json
from internvl_server.protocol.tools import read_arguments

__all__ = ["Event", "OutputItems"]

Event: TypeAlias = dict[str, Any]
ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class _Message:
    """A message that is being generated; all its text is one part, which a refusal replaces."""

    def __init__(self, item_id: str, index: int) -> None:
        self._place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._id = item_id
        self._index = index
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._refusal = ""
        self.violation = ""

    def begin(self) -> Iterator[Event]:
        item = self.json("in_progress") | {"content": []}
        yield {"type": "response.output_item.added", "output_index": self._index, "item": item}
        yield {"type": "response.content_part.added", **self._place, "part": self._part()}

    def refuse(self, refusal: str) -> Iterator[Event]:
        """Add the refusal as a part. The text before it is never done, because it is no answer."""
        place = self._place | {"content_index": 1}
        part = {"type": "refusal", "refusal": ""}
        yield {"type": "response.content_part.added", **place, "part": part}
        self._refusal = refusal
        yield {"type": "response.refusal.delta", **place, "delta": refusal}
        yield {"type": "response.refusal.done", **place, "refusal": refusal}
        yield {"type": "response.content_part.done", **place, "part": self._part()}

    def add(self, text: str, logprobs: Sequence[TextLogprobs]) -> Event:
        entries = logprobs_json([entry for entry in logprobs if not entry.is_reasoning])
        self._pieces.append(text)
        self._logprobs += entries
        kind = "response.output_text.delta"
        return {"type": kind, **self._place, "delta": text, "logprobs": entries}

    def end(self, status: ItemStatus) -> Iterator[Event]:
        if not self._refusal:
            part = self._part()
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            yield {"type": "response.output_text.done", **self._place, **done}
            yield {"type": "response.content_part.done", **self._place, "part": part}
        item = self.json(status)
        yield {"type": "response.output_item.done", "output_index": self._index, "item": item}

    def final_status(self, *, is_cut: bool) -> ItemStatus:
        return "incomplete" if is_cut else "completed"

    def json(self, status: ItemStatus) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self._part()],
            **_violation_json(self.violation),
        }

    def _part(self) -> dict[str, Any]:
        if self._refusal:
            return {"type": "refusal", "refusal": self._refusal}
        text = "".join(self._pieces)
        return {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": list(self._logprobs),
        }


class _Reasoning:
    """The reasoning before an answer, as one part; there is no summary of it."""

    def __init__(self, item_id: str, index: int) -> None:
        self._place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._id = item_id
        self._index = index
        self._pieces: list[str] = []
        self.violation = ""

    def begin(self) -> Iterator[Event]:
        item = self.json("in_progress") | {"content": []}
        yield {"type": "response.output_item.added", "output_index": self._index, "item": item}
        yield {"type": "response.content_part.added", **self._place, "part": self._part()}

    def add(self, text: str) -> Event:
        self._pieces.append(text)
        return {"type": "response.reasoning_text.delta", **self._place, "delta": text}

    def end(self, status: ItemStatus) -> Iterator[Event]:
        part = self._part()
        yield {"type": "response.reasoning_text.done", **self._place, "text": part["text"]}
        yield {"type": "response.content_part.done", **self._place, "part": part}
        item = self.json(status)
        yield {"type": "response.output_item.done", "output_index": self._index, "item": item}

    def final_status(self, *, is_cut: bool) -> ItemStatus:
        return "incomplete" if is_cut else "completed"

    def json(self, status: ItemStatus) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [self._part()],
            **_violation_json(self.violation),
        }

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": "".join(self._pieces)}


class _Call:
    """A function call that is being generated."""

    def __init__(self, item_id: str, index: int, first: ToolCallDelta) -> None:
        self._place = {"item_id": item_id, "output_index": index}
        self._id = item_id
        self._index = index
        self._call_id = first.id
        self._name = first.name
        self._pieces: list[str] = []
        self.number = first.index
        self.violation = ""

    def begin(self) -> Iterator[Event]:
        item = self.json("in_progress")
        yield {"type": "response.output_item.added", "output_index": self._index, "item": item}

    def add(self, arguments: str) -> Event:
        self._pieces.append(arguments)
        kind = "response.function_call_arguments.delta"
        return {"type": kind, **self._place, "delta": arguments}

    def end(self, status: ItemStatus) -> Iterator[Event]:
        item = self.json(status)
        kind = "response.function_call_arguments.done"
        done = {"name": self._name, "arguments": item["arguments"]}
        yield {"type": kind, **self._place, **done}
        yield {"type": "response.output_item.done", "output_index": self._index, "item": item}

    def final_status(self, *, is_cut: bool) -> ItemStatus:
        """A call is complete when its arguments are valid JSON, whatever ended the answer."""
        del is_cut
        return "incomplete" if read_arguments("".join(self._pieces)) is None else "completed"

    def json(self, status: ItemStatus) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._pieces),
            **_violation_json(self.violation),
        }


def _violation_json(violation: str) -> dict[str, str]:
    return {"schema_violation": violation} if violation else {}


_Item: TypeAlias = _Reasoning | _Message | _Call


class OutputItems:
    """The output items of a response that is being generated.

    Reasoning is an item, text goes into a message, and each tool call is a separate item, in the order in
    which they come.

    Args:
        suffix: The part of the response's id that the items' ids share.
    """

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._open: _Item | None = None
        self._done: list[dict[str, Any]] = []
        self._num_begun = 0
        self.usage: Usage | None = None
        self.status: Literal["in_progress", "completed", "incomplete"] = "in_progress"

    @property
    def json(self) -> list[dict[str, Any]]:
        """The items so far; one that is still being generated is `incomplete`."""
        rest = [self._open.json("incomplete")] if self._open else []
        return self._done + rest

    def push(self, delta: TextDelta) -> list[Event]:
        """Add a delta of the answer and return its events, without their sequence numbers."""
        events: list[Event] = []
        if delta.reasoning:
            events += self._reasoning(delta.reasoning)
        if delta.text or (delta.logprobs and isinstance(self._open, _Message)):
            events += self._text(delta)
        for piece in delta.tool_calls:
            events += self._call(piece)
        if delta.finish_reason is not None:
            events += self._finish(delta)
        return events

    def _reasoning(self, text: str) -> Iterator[Event]:
        item = self._open
        if not isinstance(item, _Reasoning):
            item = _Reasoning(f"rs_{self._suffix}_{self._num_begun}", self._num_begun)
            yield from self._begin(item)
        yield item.add(text)

    def _text(self, delta: TextDelta) -> Iterator[Event]:
        message = self._open
        if not isinstance(message, _Message):
            yield from self._close()
            message = _Message(f"msg_{self._suffix}_{self._num_begun}", self._num_begun)
            yield from self._begin(message)
        yield message.add(delta.text, delta.logprobs)

    def _call(self, piece: ToolCallDelta) -> Iterator[Event]:
        call = self._open
        if not isinstance(call, _Call) or call.number != piece.index:
            yield from self._close()
            call = _Call(f"fc_{self._suffix}_{self._num_begun}", self._num_begun, piece)
            yield from self._begin(call)
        if piece.arguments:
            yield call.add(piece.arguments)

    def _finish(self, delta: TextDelta) -> Iterator[Event]:
        is_cut = delta.finish_reason == "length"
        if not self._num_begun or (delta.refusal and not isinstance(self._open, _Message)):
            yield from self._text(delta)  # an empty answer is an empty message
        if delta.refusal and isinstance(self._open, _Message):
            yield from self._open.refuse(delta.refusal)
        if self._open is not None:
            self._open.violation = delta.violation
        yield from self._close(is_cut=is_cut)
        self.usage = delta.usage
        self.status = "incomplete" if is_cut else "completed"

    def _begin(self, item: _Item) -> Iterator[Event]:
        self._open = item
        self._num_begun += 1
        return item.begin()

    def _close(self, *, is_cut: bool = False) -> Iterator[Event]:
        if self._open is None:
            return
        item, self._open = self._open, None
        status = item.final_status(is_cut=is_cut)
        self._done.append(item.json(status))
        yield from item.end(status)
