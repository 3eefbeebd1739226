"""How the answer to one request is written, where uvicorn's own way is slow or wrong."""

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Any, Self, cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from internvl_server.api.errors import dialect_of_path, error_response
from internvl_server.api.headers import SECURITY_HEADERS
from internvl_server.errors import ServerError
from internvl_server.serve.lazy import LazyEvent, Pipeline

__all__ = ["AnswerTransport", "CycleDirect", "ReaderWatch", "refusal", "write_unframed"]

# How often the system is asked whether a client has left whose body is not being read.
_POLL_S = 0.2
# A refused client is waited for while it sends, and for this time after that.
_LINGER_S = 2.0


class ReaderWatch(HttpToolsProtocol):
    """Drops a connection whose client takes so little of an answer that nothing can be written for long.

    This is for all answers; streams have a timeout besides, `server.send_timeout_s`. A client that is still
    sending when it is answered is given the time to read it.
    """

    # The dictionary of the base's attributes has room for few others without becoming four times as large.
    __slots__ = ("_lingering", "_num_unread_bytes", "_stuck", "has_sent", "stuck_after_s")

    stuck_after_s: float
    """`server.unread_timeout_s`."""
    has_sent: bool
    """Set when something is received that is not read because the connection is to be closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the transport at the beginning."""
        super().connection_made(transport)
        self.pipeline = cast(deque[Any], Pipeline())
        # Where this is not uvicorn's attribute, nothing but memory is lost.
        self.flow._is_writable_event = cast(asyncio.Event, LazyEvent(is_set=True))  # noqa: SLF001
        self._stuck: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self.has_sent = False
        self._num_unread_bytes = 0  # of the last answer, when it was whole or later

    @property
    def is_clients_turn(self) -> bool:
        """Whether no request is being answered or waits for it."""
        return self.cycle is None or self.cycle.response_complete

    def on_headers_complete(self) -> None:
        """Called by the parser. Starts the request, later than now."""
        super().on_headers_complete()
        self.cycle.message_event = cast(asyncio.Event, LazyEvent())

    def on_message_complete(self) -> None:
        """Called by the parser at the end of a request, whose scope has the headers."""
        super().on_message_complete()
        self.headers = []

    def pause_writing(self) -> None:
        """Called by the transport when its buffer is full."""
        super().pause_writing()
        self._stuck = self.loop.call_later(self.stuck_after_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Called by the transport when there is room again."""
        self._end_watch()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Called at the end of an answer."""
        self._num_unread_bytes = self.transport.get_write_buffer_size()
        super().on_response_complete()

    def start_keep_alive(self) -> None:
        """Close the connection after some time without a request."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def close_when_read(self) -> None:
        """Close the connection once the client has read its answer, which it may never do."""
        self._num_unread_bytes = self.transport.get_write_buffer_size()
        self.transport.close()
        self.start_keep_alive()

    def linger(self, most_s: float) -> None:
        """Close the connection once its client sends no more.

        A socket that is closed with unread data makes the client's system drop the answer.

        Args:
            most_s: Seconds after which it is closed anyway.
        """
        self.flow.resume_reading()  # a large body may have paused it
        self._linger(self.loop.time() + most_s)

    def _linger(self, until: float) -> None:
        self.has_sent = False
        self._lingering = self.loop.call_later(_LINGER_S, self._end_lingering, until)

    def _end_lingering(self, until: float) -> None:
        if self.has_sent and self.loop.time() < until:
            self._linger(until)
        else:
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        """Called on an idle connection. Waits for a client that is reading its answer, and for no other."""
        num_bytes = self.transport.get_write_buffer_size()
        if 0 < num_bytes < self._num_unread_bytes:
            self._num_unread_bytes = num_bytes
            self.start_keep_alive()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport at the end."""
        self._end_watch()
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)

    def _end_watch(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


def refusal(error: ServerError, url: bytes) -> bytes:
    """An error as an answer that ends the connection."""
    path = url.partition(b"?")[0].decode("latin-1")
    response = error_response(error, dialect_of_path(path))
    response.headers.update({**SECURITY_HEADERS, "connection": "close"})
    headers = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
    return STATUS_LINE[response.status_code] + headers + b"\r\n" + bytes(response.body)


def write_unframed(cycle: RequestResponseCycle) -> None:
    """Write a body without a length as it is, so that the end of the connection ends it.

    HTTP/1.0 has no chunks, which uvicorn would write (RFC 9112, section 6.1). Call it before the answer
    begins.
    """
    cycle.chunked_encoding = False
    cycle.expected_content_length = _AnyLength()


class _AnyLength(int):
    """What is left of a body of unknown length: no piece is longer, and it may end at any time."""

    def __lt__(self, other: int) -> bool:
        return False

    def __sub__(self, other: int) -> Self:
        return self


class AnswerTransport:
    """A connection as the code that writes one answer sees it, which closes it in another way.

    Args:
        transport: The connection.
        close: Called instead of its `close`.
    """

    __slots__ = ("abort", "close", "get_extra_info", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.close = close
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.write = transport.write


class CycleDirect:
    """The connection of a request; see `internvl_server.api.disconnect.Direct`.

    It writes as `RequestResponseCycle.send` does, without its coroutine.
    """

    __slots__ = ("__weakref__", "_on_gone", "_polling", "cycle")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle
        self._on_gone: Callable[[], None] | None = None
        self._polling: asyncio.TimerHandle | None = None

    def write(self, body: bytes) -> bool:
        """Write a chunk of an answer that has begun, unless the client is behind."""
        cycle = self.cycle
        if cycle.flow.write_paused or not cycle.chunked_encoding:
            return False
        if not cycle.disconnected:
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def abort(self) -> None:
        """Drop the connection."""
        self.cycle.transport.abort()

    def watch(self, on_gone: Callable[[], None], *, has_body: bool) -> Callable[[], None]:
        """Have a function called once the client leaves."""
        self._on_gone = on_gone
        if self.cycle.disconnected:
            asyncio.get_running_loop().call_soon(self.leave)
        elif has_body:
            self._poll_later()
        else:
            self.cycle.flow.resume_reading()  # a large body may have paused it; the end must be read
        return self._stop

    def leave(self) -> None:
        """The client has left: end the request. Called by the connection; idempotent."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone()

    def _poll_later(self) -> None:
        self._polling = asyncio.get_running_loop().call_later(_POLL_S, self._poll)

    def _poll(self) -> None:
        """Ask the system whether the client has left: the transport does not, while a body is unread."""
        poll = select.poll()
        poll.register(self.cycle.transport.get_extra_info("socket"), select.POLLRDHUP)
        if poll.poll(0):
            self.abort()  # which ends the request, too
        else:
            self._poll_later()

    def _stop(self) -> None:
        self._on_gone = None
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None
