"""Maps errors to HTTP statuses and to the error envelope of the client's API dialect.

A row of the table applies to a class and to its subclasses without a row.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from internvl_server import errors
from internvl_server.api.disconnect import ClientGoneError
from internvl_server.errors import ServerError
from internvl_server.protocol.dialects import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Dialect,
    ErrorBody,
)
from internvl_server.telemetry.record import RequestRecord, current_record

__all__ = [
    "ERROR_HANDLERS",
    "ERROR_TABLE",
    "INTERNAL_ROW",
    "SPECIAL_CODES",
    "Row",
    "client_facing_error",
    "dialect_of",
    "dialect_of_path",
    "envelope",
    "error_body",
    "error_response",
    "error_rows",
    "note_error",
    "response_to",
    "unexpected_response",
]

_log = logging.getLogger(__name__)

_DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/input_tokens": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/responses/input_tokens": RESPONSES,
}


def dialect_of(scope: Scope) -> Dialect:
    """The dialect to answer a request in.

    A route may choose it as `request.state.dialect`; otherwise it depends on the path. Paths that several
    APIs have, or none, are answered in Anthropic's to its clients, whose requests all have a header for it.
    """
    chosen: Dialect | None = scope.get("state", {}).get("dialect")
    if chosen is None and "anthropic-version" in Headers(scope=scope):
        return dialect_of_path(scope["path"], default=MESSAGES)
    return chosen or dialect_of_path(scope["path"])


def dialect_of_path(path: str, *, default: Dialect = CHAT) -> Dialect:
    """The dialect of the API that has a path.

    Args:
        path: Of the request.
        default: For paths that several APIs have, or none.
    """
    if path.startswith("/v1/messages/"):
        return MESSAGES
    return _DIALECTS.get(path, default)


@dataclass(frozen=True, slots=True)
class Row:
    """How one error class is reported; `retry_after_s` is set when a later retry can succeed."""

    status: int
    type: str
    code: str | None
    retry_after_s: int | None = None


_INVALID = "invalid_request_error"

ERROR_TABLE: Mapping[type[ServerError], Row] = {
    errors.InvalidRequestError: Row(400, _INVALID, "invalid_request"),
    errors.UnsupportedParameterError: Row(400, _INVALID, "unsupported_parameter"),
    errors.ContextLengthExceededError: Row(400, _INVALID, "context_length_exceeded"),
    errors.RequestTooLargeError: Row(413, _INVALID, "request_too_large"),
    errors.RequestHeadTooLargeError: Row(431, _INVALID, "request_head_too_large"),
    errors.UrlTooLongError: Row(414, _INVALID, "url_too_long"),
    errors.UnsupportedMediaTypeError: Row(415, _INVALID, "unsupported_media_type"),
    errors.ImageError: Row(400, _INVALID, "invalid_image"),
    errors.ImageUrlError: Row(400, _INVALID, "invalid_image_url"),
    errors.ImageBlockedError: Row(400, _INVALID, "image_url_blocked"),
    errors.ImageFetchError: Row(400, _INVALID, "image_fetch_failed"),
    errors.ImageFetchTimeoutError: Row(400, _INVALID, "image_fetch_timeout"),
    errors.ImageTooLargeError: Row(400, _INVALID, "image_too_large"),
    errors.ImageDecodeError: Row(400, _INVALID, "invalid_image"),
    errors.VideoError: Row(400, _INVALID, "invalid_video"),
    errors.VideoUrlError: Row(400, _INVALID, "invalid_video_url"),
    errors.VideoBlockedError: Row(400, _INVALID, "video_url_blocked"),
    errors.VideoFetchError: Row(400, _INVALID, "video_fetch_failed"),
    errors.VideoFetchTimeoutError: Row(400, _INVALID, "video_fetch_timeout"),
    errors.VideoTooLargeError: Row(400, _INVALID, "video_too_large"),
    errors.VideoDecodeError: Row(400, _INVALID, "invalid_video"),
    errors.AuthenticationError: Row(401, "authentication_error", "invalid_api_key"),
    errors.ModelNotFoundError: Row(404, "not_found_error", "model_not_found"),
    errors.RouteNotFoundError: Row(404, "not_found_error", "route_not_found"),
    errors.MethodNotAllowedError: Row(405, _INVALID, "method_not_allowed"),
    errors.RequestTimeoutError: Row(408, _INVALID, "request_timeout"),
    errors.DeadlineError: Row(504, "server_error", "deadline_exceeded"),
    errors.EngineOverloadedError: Row(429, "rate_limit_error", "engine_overloaded", 1),
    errors.EngineUnavailableError: Row(503, "server_error", "engine_unavailable", 5),
    errors.ShuttingDownError: Row(503, "server_error", "server_shutting_down", 5),
    # Without a time to retry after: it was executed, and may fail again.
    errors.EngineError: Row(503, "server_error", "engine_error"),
    errors.StartupError: Row(503, "server_error", "engine_unavailable"),
}

_INTERNAL = ServerError(
    "The server failed on this request; its operator finds the reason in the log."
)
INTERNAL_ROW = Row(500, "server_error", "internal_error")

# Codes that are narrower than their class: the class, and what they mean.
SPECIAL_CODES: Mapping[str, tuple[type[ServerError], str]] = {
    "engine_stalled": (errors.EngineError, "The engine has made no progress for too long."),
    "invalid_json": (errors.InvalidRequestError, "The body is not JSON, or not an object."),
    "invalid_value": (errors.InvalidRequestError, "A field has the wrong type or is out of range."),
    "missing_required_parameter": (errors.InvalidRequestError, "A required field is missing."),
    "thread_unsupported_request": (
        errors.UnsupportedParameterError,
        "Messages are not stored: the conversation must be sent without `thread`.",
    ),
    "unknown_parameter": (errors.UnsupportedParameterError, "The field is not known."),
}


def error_rows() -> list[tuple[Row, str]]:
    """Every answer that reports an error and what it means, for the documentation."""
    classes = [
        cls for cls in ERROR_TABLE if cls is not errors.StartupError
    ]  # the process has ended
    rows = [(ERROR_TABLE[cls], inspect.getdoc(cls) or "") for cls in classes]
    special = [
        (replace(ERROR_TABLE[cls], code=code), meaning)
        for code, (cls, meaning) in SPECIAL_CODES.items()
    ]
    return [*rows, *special, (INTERNAL_ROW, "A defect of the server.")]


def _row(error: ServerError) -> Row:
    for cls in type(error).__mro__:
        if cls in ERROR_TABLE:
            return ERROR_TABLE[cls]
    return INTERNAL_ROW


def error_body(error: ServerError, dialect: Dialect) -> ErrorBody:
    """The contents of an error answer in the words of a dialect."""
    row = _row(error)
    return ErrorBody(
        message=error.message_for(dialect.name_of),
        type=row.type,
        code=error.code or row.code,
        param=error.param_for(dialect.name_of),
    )


def envelope(error: ServerError, dialect: Dialect) -> dict[str, Any]:
    """The JSON body of an error answer."""
    return dialect.envelope(error_body(error, dialect))


def error_response(error: ServerError, dialect: Dialect = CHAT) -> JSONResponse:
    """An error as an answer. Its headers tell the SDK whether to retry, and when."""
    row = _row(error)
    note_error(current_record.get(), error)
    headers = {"x-should-retry": "true" if row.retry_after_s else "false"}
    if row.retry_after_s:
        headers["Retry-After"] = str(getattr(error, "retry_after_s", row.retry_after_s))
    if isinstance(error, errors.AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(envelope(error, dialect), status_code=row.status, headers=headers)


def note_error(record: RequestRecord | None, error: ServerError) -> None:
    """Write to a request's record which error it is answered with."""
    if record is not None:
        record.error_code = error.code or _row(error).code or ""


def client_facing_error(error: Exception) -> ServerError:
    """Log an error raised mid-stream and return the one to send to the client."""
    if isinstance(error, ServerError):
        _log.warning("stream failed: %s", error.message)
        return error
    _log.error("stream failed", exc_info=error)
    return _INTERNAL


async def _on_server_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServerError), error
    response = error_response(error, dialect_of(request.scope))
    if isinstance(error, errors.DeadlineError):
        _log.warning("request failed: %s", error.message)
    elif response.status_code >= 500:  # noqa: PLR2004
        _log.error("request failed: %s", error.message, exc_info=error)
    return response


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """The framework's own refusals: an unknown path, a wrong method."""
    assert isinstance(error, StarletteHTTPException), error
    known: ServerError
    dialect = dialect_of(request.scope)
    path = request.scope["path"][:128]
    if error.status_code == 405:  # noqa: PLR2004
        allowed = ", ".join(_allowed_methods(request))
        known = errors.MethodNotAllowedError(
            f"{request.method} is not allowed on {path}; allowed: {allowed}."
        )
        response = error_response(known, dialect)
        response.headers["Allow"] = allowed
        return response
    if error.status_code == 404:  # noqa: PLR2004
        known = errors.RouteNotFoundError(
            f"There is no {path} here. Chat is at POST /v1/chat/completions and /v1/messages."
        )
    else:
        known = errors.InvalidRequestError("The request could not be read.")
    return error_response(known, dialect)


def _allowed_methods(request: Request) -> list[str]:
    """The methods of all routes on the path; the framework reports only the first route's."""
    scope = dict(request.scope)
    found: set[str] = set()
    for method in ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH"):
        scope["method"] = method
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            found.add(method)
    return sorted(found)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), error
    where = ".".join(str(step) for step in error.errors()[0]["loc"][1:])
    invalid = errors.InvalidRequestError(f"Invalid value for '{where}'.", param=where)
    return error_response(invalid, dialect_of(request.scope))


async def _on_client_gone(_: Request, __: Exception) -> Response:
    """The client is gone; the status is only for the access log."""
    return Response(status_code=499)


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Coroutine[Any, Any, Response]]] = {
    ServerError: _on_server_error,
    StarletteHTTPException: _on_http_exception,
    RequestValidationError: _on_validation_error,
    ClientDisconnect: _on_client_gone,
    ClientGoneError: _on_client_gone,
}
"""How the server's and the framework's errors are answered, in the client's dialect."""


async def response_to(error: Exception, request: Request) -> Response:
    """The answer to an error of a request. Raises the error if it is a defect."""
    for cls in type(error).__mro__:
        if cls in ERROR_HANDLERS:
            response = await ERROR_HANDLERS[cls](request, error)
            error.__traceback__ = None  # its frames hold the request's images
            return response
    raise error


def unexpected_response(error: BaseException, dialect: Dialect) -> JSONResponse:
    """The answer to a defect of the server, which is logged, or to a request that the server's end ends."""
    if isinstance(error, asyncio.CancelledError):
        return error_response(errors.ShuttingDownError(), dialect)
    _log.error("request failed unexpectedly", exc_info=error)
    return error_response(_INTERNAL, dialect)
