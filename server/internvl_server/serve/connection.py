"""One HTTP connection: uvicorn's httptools protocol with limits on what a client may send, and when.

llhttp, the parser of httptools, has no limits: it collects a header until it is whole, and skips the
extensions of chunks without reporting them. Two counters bound both. One has the bytes of URL, headers and
trailers, which the parser reports; the other has all other bytes but the body's, such as framing.
"""

import asyncio
import logging
from asyncio import TimerHandle
from collections.abc import Callable
from functools import partial
from typing import Any, cast
from weakref import ref

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from internvl_server.api.disconnect import DIRECT
from internvl_server.errors import EngineOverloadedError, InvalidRequestError, ServerError
from internvl_server.serve import head
from internvl_server.serve.room import AwaitedHeads, close_idle
from internvl_server.serve.writing import (
    AnswerTransport,
    CycleDirect,
    ReaderWatch,
    refusal,
    write_unframed,
)
from internvl_server.settings import Settings
from internvl_server.settings.limits import MAX_REFUSED_CONNECTIONS

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

# The parser takes a received block in slices, so that it can be stopped: a slice may have 4,000 chunks.
_SLICE_BYTES = 16_384
# A chunk of 48 bytes has 6 bytes of framing. Bodies of smaller chunks may have `max_head_bytes` of them.
_MIN_BODY_BYTES_PER_FRAMING_BYTE = 8
_MAX_PIPELINED = 64


class Connection(ReaderWatch):
    """Answers 400, 408 or 431 to what is not HTTP, slow, or too large, and then closes the connection.

    More connections than `limits.max_connections` are answered 429, unless another can be closed instead.

    Args:
        config, server_state, app_state, _loop: uvicorn's.
        settings: The limits of the heads of requests: their size, and the time they may take. A connection on
            which the client has something to send, and does not, is closed after that time too.
        awaited_heads: Of all connections.
    """

    __slots__ = (
        "_allowed_hosts", "_awaited_heads", "_deadline", "_is_in_body", "_is_in_message", "_is_refused",
        "_limits", "_num_body_bytes", "_num_head_bytes", "_num_other_bytes", "_refusal", "_unanswered",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: Settings,
        awaited_heads: AwaitedHeads,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = settings.limits
        self._awaited_heads = awaited_heads
        self._allowed_hosts = settings.server.allowed_hosts
        self.stuck_after_s = settings.server.unread_timeout_s
        self._deadline: TimerHandle | None = None
        self._refusal: ServerError | None = None
        self._is_refused = False
        self._unanswered: list[CycleDirect] = []  # the requests without a whole answer
        # Of the message that is being received:
        self._is_in_message = False
        self._is_in_body = False
        self._num_head_bytes = 0
        self._num_body_bytes = 0
        self._num_other_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        num_excess = len(self.connections) - self._limits.max_connections
        if num_excess <= 0 or close_idle(self.connections) or self._awaited_heads.drop_one(self):
            self._start_deadline()
        else:
            self.turn_away(lingers=num_excess <= MAX_REFUSED_CONNECTIONS)

    def turn_away(self, *, lingers: bool = False) -> None:
        """Say that too many connections are open, and close this one, at once if it does not linger."""
        if not (self._is_refused or self._is_in_body):
            self._refuse(EngineOverloadedError("Too many connections are open. Retry shortly."))
        self._awaited_heads.discard(self)
        if not lingers:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and all requests: uvicorn tells only the last one."""
        self._stop_deadline()
        self._unset_keepalive_if_required()  # uvicorn keeps it, and all of the request, after a reset
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what was received, or drop it after a refusal."""
        self._unset_keepalive_if_required()
        view = memoryview(data)
        for start in range(0, len(data), _SLICE_BYTES):
            if self._is_refused or self.transport.is_closing():
                self.has_sent = True
                return
            self._feed(view[start : start + _SLICE_BYTES])
        if self.is_clients_turn and self.timeout_keep_alive_task is None:
            self._start_deadline()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._is_in_message = True
        self._num_head_bytes = self._num_body_bytes = self._num_other_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Called by the parser for each piece of the URL."""
        self._count_head(len(url))
        super().on_url(url)
        self._check(partial(head.check_url, self.url, self._limits))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each header, and for each trailer, which is not used."""
        self._count_head(len(name) + len(value) + 4)
        if self._is_in_body:
            return
        super().on_header(name, value)
        if len(self.headers) > self._limits.max_headers:
            raise self._refused(head.too_many_headers(self._limits))

    def on_headers_complete(self) -> None:
        """Called by the parser. Starts the request."""
        # After an answer that ends the connection; or `_feed` parses the head again.
        if self.transport.is_closing() or self.parser.should_upgrade():
            return
        version = self.parser.get_http_version()
        self._check(partial(head.check_head, self.headers, version, self.url, self._allowed_hosts))
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise self._refused(InvalidRequestError("Too many requests wait on this connection."))
        super().on_headers_complete()
        self._is_in_body = True
        self._stop_deadline()
        if version == "1.0":
            write_unframed(self.cycle)
        self.cycle.transport = cast(asyncio.Transport, AnswerTransport(self.transport, self._end))
        direct = CycleDirect(self.cycle)
        self._unanswered.append(direct)
        # Weak, because the scope is part of the cycle.
        cast(dict[str, Any], self.scope)[DIRECT] = ref(direct)

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each piece of the body."""
        self._num_body_bytes += len(body)
        self._num_other_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of a request."""
        if self.parser.should_upgrade():
            return
        self._is_in_message = self._is_in_body = False
        super().on_message_complete()
        if not self.is_clients_turn:
            return
        # It was answered before it was complete.
        self._stop_deadline()
        if self.cycle.keep_alive:
            self.start_keep_alive()
        else:
            self.close_when_read()

    def on_response_complete(self) -> None:
        """Called at the end of an answer, possibly before the end of its request."""
        self._unanswered.pop(0)
        super().on_response_complete()
        if self.transport.is_closing():
            self._stop_deadline()
        elif self._is_refused and self._refusal and self.is_clients_turn:
            self._refuse(self._refusal)
        elif self._is_in_message and self.is_clients_turn:
            self._unset_keepalive_if_required()
            self._start_deadline()

    def _end(self) -> None:
        """Close the connection after its last answer, or once a client that sends a body can read it."""
        if self._is_in_body and self.is_clients_turn and not self.pipeline:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:
            self.close_when_read()

    def _feed(self, data: memoryview | bytes) -> None:
        self._num_other_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(bytes(data[upgrade.args[0] :]))
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or InvalidRequestError("The request is not valid HTTP/1.1."))
            return
        # It is negative if data had the end of one message and the body of the next.
        self._num_other_bytes = max(self._num_other_bytes, 0)
        allowed = self._num_body_bytes // _MIN_BODY_BYTES_PER_FRAMING_BYTE
        if self._num_other_bytes > self._limits.max_head_bytes + allowed:
            self._refuse(head.head_too_large(self._limits))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Answer a request as if it asked for no upgrade, which is the way to decline one.

        Java's HttpClient asks for HTTP/2 in every first request, also with a body, which llhttp would skip.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(InvalidRequestError("This server is not a proxy."))
            return
        version = self.parser.get_http_version()
        plain = head.without_upgrade(method, self.url, version, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self._feed(plain + rest)

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        self._num_other_bytes -= num_bytes
        if self._num_head_bytes > self._limits.max_head_bytes:
            raise self._refused(head.head_too_large(self._limits))

    def _check(self, check: Callable[[], None]) -> None:
        try:
            check()
        except ServerError as err:
            raise self._refused(err) from None

    def _refused(self, error: ServerError) -> ServerError:
        """Keep the error for `_feed`, which gets another one from the parser."""
        self._refusal = error
        return error

    def _refuse(self, error: ServerError) -> None:
        """Answer with the error, unless an answer has begun, and close; whole requests come first."""
        self._is_refused = True
        if self._is_in_body and self.pipeline:  # it waits behind others: as if it had not come
            del self.pipeline[0]
            self._unanswered.pop()
            self.cycle, self._is_in_body = self._unanswered[-1].cycle, False
        if not (self._is_in_body or self.is_clients_turn):
            self._refusal = error  # later: too short a length makes the end of a body a request
            return
        _log.info("refused a connection: %s", error.message)
        is_begun = self._is_in_body and self.cycle.response_started
        self._disconnect()
        if is_begun:
            self.close_when_read()
            return
        self.transport.write(refusal(error, self.url if self._is_in_message else b""))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_deadline()
        self._awaited_heads.add(self)  # so that it makes room for others
        self.linger(self._limits.body_timeout_s)

    def _disconnect(self) -> None:
        for direct in tuple(self._unanswered):
            direct.leave()

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._awaited_heads.add(self)
            limits = self._limits
            seconds = limits.body_timeout_s if self._is_in_body else limits.head_timeout_s
            self._deadline = self.loop.call_later(seconds, self._on_deadline)

    def _stop_deadline(self) -> None:
        self._awaited_heads.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        self._awaited_heads.discard(self)
        if not self._is_in_message or self._is_in_body:  # silent, or answered
            self.close_when_read()
            return
        self._refuse(head.too_slow(self._limits))
