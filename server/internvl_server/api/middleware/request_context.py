"""ASGI middleware that gives each request an id, returns it, and writes one access log line."""

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from internvl_server.api.errors import dialect_of, unexpected_response
from internvl_server.telemetry.request_id import (
    current_request_id,
    is_valid_request_id,
    new_request_id,
)

__all__ = ["RequestContextMiddleware"]

_log = logging.getLogger("server.access")


class RequestContextMiddleware:
    """Assigns the id in `x-request-id` (the caller's, if it is valid) and logs status and duration."""

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
        started = time.monotonic()
        status = 0
        id_headers = dict.fromkeys(dialect_of(scope).id_headers, request_id)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(id_headers)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if (
                status
            ):  # the response has begun: only closing the connection shows that it is incomplete
                raise
            response = unexpected_response(error, dialect_of(scope))
            await response(scope, receive, send_with_id)
        finally:
            took_ms = (time.monotonic() - started) * 1000
            level = logging.DEBUG if scope["path"] in ("/health", "/ready") else logging.INFO
            _log.log(level, "%s %s %d %.0fms", scope["method"], scope["path"], status, took_ms)
            current_request_id.reset(token)
