"""Server-sent events: the events of a streamed answer, and the response that owns its resources."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Protocol

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.types import Receive, Scope, Send

from internvl_server.api.errors import client_facing_error, error_body
from internvl_server.core import TextDelta
from internvl_server.pipeline import Generation
from internvl_server.protocol.dialects import Dialect, ErrorBody
from internvl_server.settings import ServerSettings

__all__ = ["EventStream", "StreamWriter", "stream_events"]

_log = logging.getLogger(__name__)

# The drain decides when streams end at shutdown, not the library.
AppStatus.enable_automatic_graceful_drain = False


class EventStream(EventSourceResponse):
    """A stream of encoded events that closes its resources when it ends, however it ends.

    Args:
        events: Encoded events.
        headers: Headers of the response.
        settings: How often to send a ping, and how long a reader may stop reading.
        ping: The members of a ping.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str],
        settings: ServerSettings,
        ping: Mapping[str, str],
    ) -> None:
        super().__init__(
            events,
            headers=headers,
            ping=settings.sse_keep_alive_s,
            sep="\n",
            ping_message_factory=partial(_ping, ping),
            send_timeout=settings.send_timeout_s,
        )
        self._owner = AsyncExitStack()

    def take_over(self, owner: AsyncExitStack) -> None:
        """Become the owner of all resources, even if the client leaves before the first event.

        Call it last: until then the previous owner closes them if the response cannot be built.
        """
        self._owner = owner.pop_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            _log.warning("the client stopped reading its stream")
        finally:
            await self._owner.aclose()


def _ping(members: Mapping[str, str]) -> ServerSentEvent:
    return ServerSentEvent(
        members.get("data"), event=members.get("event"), comment=members.get("comment"), sep="\n"
    )


class StreamWriter(Protocol):
    """Writes the events of one answer in a dialect, as encoded server-sent events.

    `end` is what follows the last delta, and may be empty.
    """

    dialect: Dialect
    end: bytes

    def begin(self) -> bytes:
        """The events before the first delta."""

    def delta(self, delta: TextDelta) -> bytes:
        """The events of a delta; may be empty."""

    def failed(self, error: ErrorBody) -> bytes:
        """The last event of an answer that failed."""


async def stream_events(generation: Generation, writer: StreamWriter) -> AsyncIterator[bytes]:
    """The events of an answer. A failure is the last of them."""
    yield writer.begin()
    try:
        async for delta in generation.deltas():
            if events := writer.delta(delta):
                yield events
    except Exception as error:  # noqa: BLE001  (the edge: any failure must reach the client)
        yield writer.failed(error_body(client_facing_error(error), writer.dialect))
    else:
        if writer.end:
            yield writer.end
