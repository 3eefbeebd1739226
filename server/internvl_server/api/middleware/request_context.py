"""ASGI middleware that gives each request an id, returns it, and writes one access log line."""

import asyncio
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from internvl_server.api.errors import dialect_of, unexpected_response
from internvl_server.api.headers import SECURITY_HEADERS
from internvl_server.api.middleware.access import log_access
from internvl_server.telemetry.request_id import (
    current_request_id,
    is_valid_request_id,
    new_request_id,
)

__all__ = ["RequestContextMiddleware"]


class RequestContextMiddleware:
    """Assigns the id in `x-request-id` (the caller's, if it is valid), adds headers, and logs the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        supplied = Headers(scope=scope).get("x-request-id", "")
        request_id = supplied if is_valid_request_id(supplied) else new_request_id()
        token = current_request_id.set(request_id)
        scope.setdefault("state", {})
        started = time.monotonic()
        answer = _Answer(send, dict.fromkeys(dialect_of(scope).id_headers, request_id))
        try:
            await self._app(scope, receive, answer.send)
        except BaseException as error:
            scope["state"]["has_failed"] = True
            # Of an answer that has begun only the end of the connection shows that it is incomplete.
            if answer.status or not isinstance(error, Exception | asyncio.CancelledError):
                raise
            response = unexpected_response(error, dialect_of(scope))
            await response(scope, receive, answer.send)
        finally:
            log_access(scope, answer.status, started=started, is_whole=answer.is_whole)
            current_request_id.reset(token)


class _Answer:
    """Adds headers to an answer, and keeps what the log says of it."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.status = 0
        self.is_whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(self._headers)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self.is_whole = not message.get("more_body", False)
        await self._send(message)
