"""The response that streams an answer as server-sent events and owns its resources."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, Self

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from internvl_server.api.disconnect import until_gone, watch
from internvl_server.api.errors import client_facing_error, error_body, note_error
from internvl_server.api.streaming.channel import Channel, ClientStalledError
from internvl_server.concurrency.offload import MAX_ANSWER_TOKENS, offload
from internvl_server.core import TextDelta
from internvl_server.errors import ShuttingDownError
from internvl_server.pipeline import Generation
from internvl_server.protocol.dialects import Dialect, ErrorBody
from internvl_server.settings import ServerSettings
from internvl_server.telemetry.record import RequestRecord

__all__ = ["EventStream", "StreamWriter"]

_log = logging.getLogger(__name__)


class _Nothing:
    """The library's own source of events, which is not used."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


_NOTHING = _Nothing()

# A client that is behind when the server stops has so long to take the last event.
_LAST_EVENT_S = 2.0


class StreamWriter(Protocol):
    """Writes the events of one answer in a dialect, as encoded server-sent events.

    `end` is what follows the last delta, and may be empty. `num_logprobs` is the number of tokens whose log
    probabilities the last events repeat.
    """

    dialect: Dialect
    num_logprobs: int
    end: bytes

    def begin(self) -> bytes:
        """The events before the first delta."""

    def delta(self, delta: TextDelta) -> bytes:
        """The events of a delta; may be empty."""

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """What stands before and after the JSON string of a choice's text in the event of a plain delta.

        None if such events differ in more than the text.
        """

    def failed(self, error: ErrorBody) -> bytes:
        """The last event of an answer that failed."""


class EventStream(EventSourceResponse):
    """A stream of events that closes its resources when it ends, however it ends.

    The library provides the headers and the ping. Events are written where the engine hands over the tokens,
    without waking a task; while the client is behind, the generation is paused and its tokens gather.

    Args:
        generation: The answer.
        writer: Writes its events.
        headers: Headers of the response.
        settings: How often to send a ping, and how long a reader may stop reading.
    """

    # A dictionary of more than thirty attributes, the base's among them, takes 1.6 kB.
    __slots__ = (
        "_around", "_begin", "_channel", "_context", "_ending", "_generation", "_loop", "_over", "_owner",
        "_state", "_takes_json", "_timeout_s", "_writer", "_written_at",
    )  # fmt: skip

    def __init__(
        self,
        generation: Generation,
        writer: StreamWriter,
        *,
        headers: Mapping[str, str],
        settings: ServerSettings,
    ) -> None:
        super().__init__(
            _NOTHING,
            headers=headers,
            ping=settings.sse_keep_alive_s,
            sep="\n",
            send_timeout=settings.send_timeout_s,
        )
        # Whether the connection stays open is the connection's to say.
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"connection"]
        vars(self).pop("_send_lock", None)  # of the library's loop, which is not used: 0.8 kB
        self._generation, self._writer = generation, writer
        self._timeout_s = settings.send_timeout_s
        self._begin = writer.begin()  # sent with the first event
        around = [writer.around_text(index) for index in range(generation.num_choices)]
        self._around = [ends for ends in around if ends is not None]
        self._takes_json = len(self._around) == len(around)
        self._owner = AsyncExitStack()
        self._context = copy_context()
        self._loop: asyncio.AbstractEventLoop
        self._channel: Channel
        self._state: dict[str, Any]  # the request's, for the access log
        self._over: asyncio.Future[None]
        self._written_at = 0.0

    def take_over(self, owner: AsyncExitStack) -> None:
        """Become the owner of all resources, even if the client leaves before the first event.

        Call it last: until then the previous owner closes them if the response cannot be built.
        """
        self._owner = owner.pop_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        self._state = scope.setdefault("state", {})
        try:
            await self._send_head(send)
            scope["headers"] = []  # those of clients take up to 4 kB
            await self._stream(scope, receive, send)
        except ClientStalledError:
            _log.warning("the client stopped reading its stream")
            if self._channel.abort():
                await until_gone(receive)
        finally:
            await self._owner.aclose()

    async def _send_head(self, send: Send) -> None:
        """Send the status and the headers, which are not kept."""
        headers, self.raw_headers = self.raw_headers, []
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the end: of the answer, of the connection, or of the time in which the server drains."""
        self._loop = loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        self._channel = Channel(
            scope,
            send,
            timeout_s=self._timeout_s,
            on_ready=self._generation.resume,
            on_end=self._end,
        )
        self._written_at = loop.time()
        stop_watching = watch(scope, receive, partial(self._end, None))
        try:
            self._generation.start(self, self._keep_alive)
            await self._over
        except asyncio.CancelledError:
            await self._end_now()
        finally:
            stop_watching()
            self._channel.close()

    async def _end_now(self) -> None:
        """Tell the client that the server stops; a client that is behind has little time for it."""
        if self._channel.is_over:
            return
        self._over = self._loop.create_future()  # the other was cancelled with its task
        self.fail(ShuttingDownError())
        try:
            async with asyncio.timeout(_LAST_EVENT_S):
                await self._over
        except TimeoutError:
            raise ClientStalledError from None

    def _end(self, error: Exception | None) -> None:
        if not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                self._over.set_exception(error)

    def _keep_alive(self) -> float:
        """Send a ping if nothing was sent for long enough; returns when it may be time for the next."""
        left_s = self._written_at + self.ping_interval - self._loop.time()
        if left_s > 0:
            return left_s
        if not self._channel.is_behind:
            self._write(_ping(self._writer.dialect.ping))
        return self.ping_interval

    def put(self, delta: TextDelta) -> None:
        """Send the events of a delta. Called by the generation, as all that follow."""
        is_last = delta.usage is not None
        if is_last and self._writer.num_logprobs > MAX_ANSWER_TOKENS:
            self._ending = asyncio.create_task(self._finish(delta))
            return
        events = self._writer.delta(delta)
        if events or is_last:
            self._write(events + self._writer.end if is_last else events, is_last=is_last)

    async def _finish(self, delta: TextDelta) -> None:
        """Send the last events, which take long to write."""
        try:
            events = await offload(partial(self._writer.delta, delta))
        except Exception as defect:  # noqa: BLE001  (raised where the response is awaited)
            self._end(defect)
        else:
            self._write(events + self._writer.end, is_last=True)

    @property
    def put_json(self) -> Callable[[int, bytes], None] | None:
        """Sends the event of a delta that is nothing but text; None if the dialect has no such event."""
        return self._put_json if self._takes_json else None

    def _put_json(self, index: int, text: bytes) -> None:
        before, after = self._around[index]
        self._write(before + text + after)

    def fail(self, error: Exception) -> None:
        """Send the event of a failure, after which nothing follows."""
        self._state["has_failed"] = True
        try:
            shown = self._context.run(client_facing_error, error)  # logs it, with the request's id
            note_error(self._state.get("record"), shown)
            self._write(self._writer.failed(error_body(shown, self._writer.dialect)), is_last=True)
        except Exception as defect:  # noqa: BLE001  (raised where the response is awaited)
            self._end(defect)

    def _write(self, events: bytes, *, is_last: bool = False) -> None:
        if self._begin:
            events, self._begin = self._begin + events, b""
            record: RequestRecord | None = self._state.get("record")
            if record is not None:
                record.first_event_at = time.monotonic()
        self._written_at = self._loop.time()
        if not self._channel.write(events, is_last=is_last):
            self._generation.pause()


def _ping(members: Mapping[str, str]) -> bytes:
    event = ServerSentEvent(
        members.get("data"), event=members.get("event"), comment=members.get("comment"), sep="\n"
    )
    return event.encode()
