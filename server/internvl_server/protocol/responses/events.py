"""The events of a streamed response, reindex and as bytes."""

import json
import time
from collections.abc import Iterable

from internvl_server.core import TextDelta
from internvl_server.errors import ServerError
from internvl_server.protocol.chat.render import obfuscation
from internvl_server.protocol.responses.output import Event, OutputItems
from internvl_server.protocol.responses.render import Ending, ResponseHead, final_state

__all__ = ["ResponseWriter"]


class ResponseWriter:
    """Writes one response: as a stream of events, or whole at its end.

    Args:
        head: What it is before its output.
        obfuscate: Whether deltas are filled up so that their lengths tell little of the text's.
    """

    def __init__(self, head: ResponseHead, *, obfuscate: bool = False) -> None:
        self._head = head
        self._items = OutputItems(head.id.partition("_")[2])
        self._obfuscate = obfuscate
        self._num_events = 0

    def begin(self) -> list[bytes]:
        """The first events: the response exists, and is being worked on."""
        response = self._head.json(Ending())
        kinds = ("response.created", "response.in_progress")
        return self._frames([{"type": kind, "response": response} for kind in kinds])

    def delta(self, delta: TextDelta) -> list[bytes]:
        """The events of a delta; after the answer's last one comes the whole response."""
        events = self._items.push(delta)
        if delta.finish_reason is not None:
            response = self.response()
            events.append({"type": f"response.{response['status']}", "response": response})
        return self._frames(events)

    def failed(self, error: ServerError) -> list[bytes]:
        """The last event of a response that broke off; what was made of it is in it."""
        ending = Ending("failed", self._items.json, error=error)
        return self._frames([{"type": "response.failed", "response": self._head.json(ending)}])

    def take(self, delta: TextDelta) -> None:
        """Take more of an answer whose events nobody reads."""
        self._items.push(delta)

    def response(self) -> Event:
        """The response object at its end."""
        items = self._items
        return self._head.json(final_state(items.status, items.json, items.usage, int(time.time())))

    def _frames(self, events: Iterable[Event]) -> list[bytes]:
        return [self._frame(event) for event in events]

    def _frame(self, event: Event) -> bytes:
        kind = event["type"]
        reindex = {"type": kind, "sequence_number": self._num_events, **event}
        self._num_events += 1
        data = json.dumps(reindex, ensure_ascii=False, separators=(",", ":"))
        if self._obfuscate and kind.endswith(".delta"):
            data = data[:-1] + obfuscation(len(data)) + "}"
        return f"event: {kind}\ndata: {data}\n\n".encode()
