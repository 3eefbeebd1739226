"""A request's body as bytes: JSON only, not compressed, bounded in size and time."""

import asyncio

from fastapi import Request

from server.errors import RequestTimeoutError, RequestTooLargeError, UnsupportedMediaTypeError
from server.settings import LimitSettings

__all__ = ["read_json_body"]


async def read_json_body(request: Request, limits: LimitSettings) -> bytes:
    """Read the whole body.

    Raises:
        UnsupportedMediaTypeError: It is not `application/json`, or compressed.
        RequestTooLargeError: It has, or says it has, more than `limits.max_body_bytes`.
        RequestTimeoutError: It did not arrive within `limits.body_timeout_s`.
        ClientDisconnect: The client left (Starlette's).
    """
    _check_type(request)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read(request, limits)
    except TimeoutError as err:
        raise RequestTimeoutError(
            f"The body did not arrive within {limits.body_timeout_s:g} s (limits.body_timeout_s)."
        ) from err


async def _read(request: Request, limits: LimitSettings) -> bytes:
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > limits.max_body_bytes:
            raise _too_large(limits)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError("The body must be JSON: 'Content-Type: application/json'.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaTypeError("The body must not be compressed (Content-Encoding).")


def _too_large(limits: LimitSettings) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The body is larger than {limits.max_body_bytes} bytes (limits.max_body_bytes). "
        "Send smaller images, or give their URLs."
    )
