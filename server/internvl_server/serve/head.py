"""What the head of a request may say: the URL, the version, the host, and how the body is coded."""

import re
from collections.abc import Collection, Sequence

from internvl_server.errors import (
    InvalidRequestError,
    RequestHeadTooLargeError,
    RequestTimeoutError,
    UrlTooLongError,
)
from internvl_server.settings import LimitSettings

__all__ = [
    "check_head",
    "check_url",
    "head_too_large",
    "too_many_headers",
    "too_slow",
    "without_upgrade",
]

# A name or an address, perhaps with a port. What stands in an URL after the host may not be part of it.
_HOST = re.compile(rb"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
# Probes of load balancers name the server by its address.
_FOR_ANY_HOST = frozenset({b"/health", b"/ready"})


def head_too_large(limits: LimitSettings) -> RequestHeadTooLargeError:
    """The error for a head with more than `limits.max_head_bytes`."""
    return RequestHeadTooLargeError(
        f"URL, headers and chunk framing have more than {limits.max_head_bytes} bytes "
        "(limits.max_head_bytes)."
    )


def too_many_headers(limits: LimitSettings) -> RequestHeadTooLargeError:
    """The error for a head with more than `limits.max_headers`."""
    return RequestHeadTooLargeError(
        f"The request has more than {limits.max_headers} headers (limits.max_headers)."
    )


def too_slow(limits: LimitSettings) -> RequestTimeoutError:
    """The error for a head that took longer than `limits.head_timeout_s`."""
    return RequestTimeoutError(
        f"The headers did not arrive within {limits.head_timeout_s:g} s (limits.head_timeout_s)."
    )


def check_url(url: bytes, limits: LimitSettings) -> None:
    """Check what has arrived of a URL.

    Raises:
        UrlTooLongError: It is longer than `limits.max_url_bytes`.
    """
    if len(url) > limits.max_url_bytes:
        raise UrlTooLongError(
            f"The URL has more than {limits.max_url_bytes} bytes (limits.max_url_bytes)."
        )


def check_head(
    headers: Sequence[tuple[bytes, bytes]], version: str, url: bytes, allowed: Collection[str]
) -> None:
    """Check what the parser leaves to us: the version, the host, and how the body is coded.

    Args:
        headers: Names in lower case, with their values.
        version: Of HTTP.
        url: The request's.
        allowed: Names and addresses that may be asked for, in lower case; empty means all.

    Raises:
        InvalidRequestError: The request is not HTTP/1, has a fragment, has not one host, or one that may not
            be asked for, or its body is coded in a way that is not read here.
    """
    if b"#" in url:  # other servers take it for a part of the path
        raise InvalidRequestError("The URL must end before its fragment ('#').")
    if version not in ("1.1", "1.0"):
        raise InvalidRequestError("This server understands HTTP/1.1.")
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise InvalidRequestError("The only transfer coding that is understood is 'chunked'.")
    _check_host([value for name, value in headers if name == b"host"], version)
    if allowed and url.partition(b"?")[0] not in _FOR_ANY_HOST:
        _check_allowed(headers, allowed)


def _check_host(hosts: Sequence[bytes], version: str) -> None:
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise InvalidRequestError("The request must have one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise InvalidRequestError(
            "The Host header must be a name or an address, with or without a port."
        )


def _check_allowed(headers: Sequence[tuple[bytes, bytes]], allowed: Collection[str]) -> None:
    host = _HOST.fullmatch(dict(headers).get(b"host", b""))
    if host is None or host[1].decode().lower() not in allowed:
        raise InvalidRequestError("This server does not serve that host (server.allowed_hosts).")


def without_upgrade(
    method: bytes, url: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """The head of a request as it would be if it did not ask for another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
