"""ASGI middleware that gives each request an id and a record, and says when it has ended and how."""

import asyncio
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from internvl_server.api.errors import dialect_of, unexpected_response
from internvl_server.api.headers import SECURITY_HEADERS
from internvl_server.api.middleware.access import log_access
from internvl_server.pipeline import Generation
from internvl_server.telemetry.observer import Observer
from internvl_server.telemetry.record import RequestRecord, current_record
from internvl_server.telemetry.request_id import (
    current_request_id,
    is_valid_request_id,
    new_request_id,
)
from internvl_server.telemetry.timing import server_timing

__all__ = ["RequestContextMiddleware"]

CLIENT_LEFT = 499


class RequestContextMiddleware:
    """Assigns the id in `x-request-id` (the caller's, if it is valid), adds headers, and logs the request.

    Args:
        app: Serves the requests.
        observer: Gets the record of each request.
        shows_times: Whether answers have the header `Server-Timing`.
    """

    def __init__(self, app: ASGIApp, observer: Observer, *, shows_times: bool = True) -> None:
        self._app = app
        self._observer = observer
        self._shows_times = shows_times

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope)
        supplied = given.get("x-request-id", "")
        request_id = supplied if is_valid_request_id(supplied) else new_request_id()
        id_token = current_request_id.set(request_id)
        record = RequestRecord(request_id, scope["method"])
        record_token = current_record.set(record)
        state = scope.setdefault("state", {})
        state["record"] = record
        self._observer.request_began(record, scope["path"], given)
        del given  # a stream would keep them
        headers = dict.fromkeys(dialect_of(scope).id_headers, request_id)
        answer = _Answer(send, headers, state, shows_times=self._shows_times)
        try:
            await self._app(scope, receive, answer.send)
        except BaseException as error:
            state["has_failed"] = True
            # Of an answer that has begun only the end of the connection shows that it is incomplete.
            if answer.status or not isinstance(error, Exception | asyncio.CancelledError):
                raise
            response = unexpected_response(error, dialect_of(scope))
            await response(scope, receive, answer.send)
        finally:
            _complete(record, scope, answer)
            log_access(scope["path"], record)
            self._observer.request_ended(record)
            # Not kept: an idle connection keeps the scope of its last request.
            del state["record"]
            current_record.reset(record_token)
            current_request_id.reset(id_token)


class _Answer:
    """Adds headers to an answer, and keeps what the record says of it."""

    __slots__ = ("_headers", "_send", "_shows_times", "_state", "is_whole", "status")

    def __init__(
        self, send: Send, headers: dict[str, str], state: dict[str, Any], *, shows_times: bool
    ) -> None:
        self._send = send
        self._headers = headers
        self._state = state
        self._shows_times = shows_times
        self.status = 0
        self.is_whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(self._headers)
            self._add_times(headers)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self.is_whole = not message.get("more_body", False)
        await self._send(message)

    def _add_times(self, headers: MutableHeaders) -> None:
        record: RequestRecord = self._state["record"]
        if record.trace_response:
            headers["traceresponse"] = record.trace_response
        if not (self._shows_times and record.stages):
            return
        generation: Generation | None = self._state.get("generation")
        if generation is not None:
            generation.note(record)
        headers["server-timing"] = server_timing(record, time.monotonic())


def _complete(record: RequestRecord, scope: Scope, answer: _Answer) -> None:
    """Write to a record how the request has ended."""
    state: dict[str, Any] = scope["state"]
    has_failed = "has_failed" in state
    record.ended = time.monotonic()
    record.status = answer.status if answer.is_whole or has_failed else CLIENT_LEFT
    record.outcome = _outcome(record.status, has_failed=has_failed)
    record.client = state.get("client", "-")
    route = scope.get("route")
    if route is not None:
        record.route = route.path
    generation: Generation | None = state.pop("generation", None)
    if generation is not None:
        generation.note(record)


def _outcome(status: int, *, has_failed: bool) -> str:
    if has_failed or status >= 500:  # noqa: PLR2004
        return "failed"
    if status == CLIENT_LEFT:
        return "left"
    return "refused" if status >= 400 else "ok"  # noqa: PLR2004
