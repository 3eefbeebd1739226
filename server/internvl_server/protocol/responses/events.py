"""Writes the numbered events of a streamed response as bytes."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from internvl_server.core import TextDelta
from internvl_server.protocol.chat.render import dumps, obfuscation
from internvl_server.protocol.dialects import RESPONSES, ErrorBody
from internvl_server.protocol.responses.output import Event, OutputItems
from internvl_server.protocol.responses.render import Ending, ResponseHead

__all__ = ["ResponseWriter"]

_MANY_LOGPROBS = 32


class ResponseWriter:
    """Writes one response, as a stream of events or as a whole.

    Args:
        head: The members that do not depend on the output.
        write_long: Writes an event that repeats many log probabilities as JSON.
        obfuscate: Whether deltas are padded, so that their lengths reveal little about the text's.

    Attributes:
        num_logprobs: Tokens whose log probabilities the last events repeat, each four times.
    """

    dialect = RESPONSES
    end = b""

    def __init__(
        self, head: ResponseHead, write_long: Callable[[Any], bytes], *, obfuscate: bool = False
    ) -> None:
        self._head = head
        self._write_long = write_long
        self.num_logprobs = 0
        self._items = OutputItems(head.id.partition("_")[2])
        self._obfuscate = obfuscate
        self._num_events = 0

    def begin(self) -> bytes:
        """The first events: the response was created and is in progress."""
        response = self._head.json(Ending())
        kinds = ("response.created", "response.in_progress")
        return self._frames([{"type": kind, "response": response} for kind in kinds])

    def delta(self, delta: TextDelta) -> bytes:
        """The events of a delta; the last delta is followed by the whole response."""
        self.num_logprobs += len(delta.logprobs)
        events = self._items.push(delta)
        if delta.finish_reason is not None:
            response = self.response()
            events.append({"type": f"response.{response['status']}", "response": response})
        return self._frames(events)

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """None: events have the place of their text in the answer."""
        del index
        return None

    def failed(self, error: ErrorBody) -> bytes:
        """The last event of a response that failed, with the output so far."""
        ending = Ending("failed", self._items.json, error=error.message)
        return self._frames([{"type": "response.failed", "response": self._head.json(ending)}])

    def add(self, delta: TextDelta) -> None:
        """Add a delta of an answer that is not streamed."""
        self._items.push(delta)

    def response(self) -> Event:
        """The response object of a complete answer."""
        items = self._items
        completed_at = int(time.time()) if items.status == "completed" else None
        return self._head.json(
            Ending(items.status, items.json, items.usage, completed_at=completed_at)
        )

    def _frames(self, events: Iterable[Event]) -> bytes:
        return b"".join([self._frame(event) for event in events])

    def _frame(self, event: Event) -> bytes:
        kind = event["type"]
        numbered = {"type": kind, "sequence_number": self._num_events, **event}
        self._num_events += 1
        is_delta = kind.endswith(".delta")
        if self.num_logprobs > _MANY_LOGPROBS and not is_delta:
            return b"event: %b\ndata: %b\n\n" % (kind.encode(), self._write_long(numbered))
        data = dumps(numbered)
        if self._obfuscate and is_delta:
            data = data[:-1] + obfuscation(len(data)) + "}"
        return f"event: {kind}\ndata: {data}\n\n".encode()
