"""Reads request bodies: uncompressed JSON, bounded in size and time, parsed in a thread when large."""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from fastapi import Request

from internvl_server.api.admission import Admission
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.concurrency.offload import MAX_JSON_BYTES, offload
from internvl_server.errors import (
    RequestTimeoutError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)
from internvl_server.protocol.limits import check_structure
from internvl_server.settings import LimitSettings, Settings

__all__ = ["BodyParser", "check_head", "read_json_body", "read_request"]

_log = logging.getLogger(__name__)

# A client chooses the names, so that only so many are remembered and logged.
_MAX_LOGGED = 256
_logged: set[str] = set()

# What is reserved of a body in chunks before it is read, and again as often as that was too little.
_STEP_BYTES = 1 << 20


class ParsedBody(Protocol):
    """What the parsers make: among other things the JSON paths that were ignored."""

    @property
    def ignored(self) -> Sequence[str]:
        """JSON paths of fields that were accepted without effect."""


T_co = TypeVar("T_co", covariant=True, bound=ParsedBody)


class BodyParser(Protocol[T_co]):
    """Parses and validates the body of one endpoint."""

    def __call__(self, body: bytes, limits: LimitSettings, *, ignore_unknown: bool) -> T_co:
        """Parse a body.

        Raises:
            InvalidRequestError: With the JSON path of the first thing that is wrong.
        """


async def read_request(request: Request, settings: Settings, parser: BodyParser[T_co]) -> T_co:
    """Read and parse the body of an admitted request.

    Raises as `read_json_body`, `run_until_disconnect`, `Admission.reserve_body` and the parser do.
    """
    num_bytes = check_head(request, settings.limits)
    admission: Admission = request.state.admission
    reserve = admission.reserve_body(_STEP_BYTES if num_bytes is None else num_bytes)
    await run_until_disconnect(request, reserve, has_body=True)
    grow = admission.grow_body if num_bytes is None else None
    data = await read_json_body(request, settings.limits, grow)
    admission.shrink_body(len(data))
    ignore_unknown = settings.server.unknown_fields == "ignore"
    parse = partial(parser, data, settings.limits, ignore_unknown=ignore_unknown)
    if len(data) > MAX_JSON_BYTES:
        max_values = settings.limits.max_json_values
        await offload(partial(check_structure, data, max_values))
    parsed = await offload(parse, size=len(data), limit=MAX_JSON_BYTES)
    _log_once(parsed.ignored)
    return parsed


def _log_once(ignored: Sequence[str]) -> None:
    """Log the fields that are ignored for the first time, whatever index their object has."""
    names = {re.sub(r"\[\d+\]", "[]", path) for path in ignored[:_MAX_LOGGED]}
    for name in sorted(names - _logged)[: _MAX_LOGGED - len(_logged)]:
        _logged.add(name)
        _log.info("the request field '%s' is not known here and is ignored", name)


def check_head(request: Request, limits: LimitSettings) -> int | None:
    """The bytes that a body has by its headers; None if it comes in chunks, which do not say.

    Raises:
        UnsupportedMediaTypeError: It is not `application/json`, or compressed.
        RequestTooLargeError: It declares more than `limits.max_body_bytes`.
    """
    _check_type(request)
    if "transfer-encoding" in request.headers:  # it comes in chunks
        return None
    declared = request.headers.get("content-length", "0")
    if int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    return int(declared)


async def read_json_body(
    request: Request, limits: LimitSettings, grow: Callable[[int], None] | None = None
) -> bytes:
    """Read the whole body.

    Args:
        request: The HTTP request.
        limits: Of size and time.
        grow: Reserves memory of this many bytes in all, while a body of unknown length arrives.

    Raises:
        EngineOverloadedError: There is no memory to grow.
        RequestTooLargeError: It has more than `limits.max_body_bytes`.
        RequestTimeoutError: It did not arrive within `limits.body_timeout_s`.
        ClientDisconnect: The client left (Starlette's).
    """
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read(request, limits, grow)
    except TimeoutError as err:
        raise RequestTimeoutError(
            f"The body did not arrive within {limits.body_timeout_s:g} s (limits.body_timeout_s)."
        ) from err


async def _read(
    request: Request, limits: LimitSettings, grow: Callable[[int], None] | None
) -> bytes:
    chunks: list[bytes] = []
    num_bytes, num_reserved = 0, _STEP_BYTES
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > limits.max_body_bytes:
            raise _too_large(limits)
        if grow is not None and num_bytes > num_reserved:
            num_reserved = min(num_bytes + _STEP_BYTES, limits.max_body_bytes)
            grow(num_reserved)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_type(request: Request) -> None:
    types = {
        value.partition(";")[0].strip().lower() for value in request.headers.getlist("content-type")
    }
    if types != {"application/json"}:
        raise UnsupportedMediaTypeError("The body must be JSON: 'Content-Type: application/json'.")
    codings = {value.strip().lower() for value in request.headers.getlist("content-encoding")}
    if not codings <= {"identity"}:
        raise UnsupportedMediaTypeError("The body must not be compressed (Content-Encoding).")


def _too_large(limits: LimitSettings) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The body is larger than {limits.max_body_bytes} bytes (limits.max_body_bytes). "
        "Send smaller images, or give their URLs."
    )
