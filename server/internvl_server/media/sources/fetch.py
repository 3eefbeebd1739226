"""Fetch an image or a video over http(s). Only this module and `exchange.py` open outgoing connections.

A host is resolved once per hop, all its addresses are checked, and the connection goes to the checked
address itself: the request is sent to `https://ADDRESS/…` with the name in `Host`, in the TLS server
name and in the certificate check, so that a second resolution cannot return another address. Redirects
are followed here.

`exchange.py` is used instead of an HTTP client: it has no cookies, redirects, proxies, credentials, default
headers or decompression to switch off, limits the head of an answer, and never reuses a connection.
"""

import asyncio
import string
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urljoin

import httpx2

from internvl_server.concurrency.sharing import SharedBudget
from internvl_server.errors import InvalidRequestError
from internvl_server.media.sources.exchange import Exchange, ExchangeError, connect
from internvl_server.media.sources.resolver import Resolver
from internvl_server.media.sources.url_policy import (
    Address,
    FetchUrl,
    UrlRules,
    is_public_address,
    parse_networks,
    parse_url,
)
from internvl_server.media.types import IMAGE, VIDEO, MediaType
from internvl_server.settings import MediaSettings

__all__ = ["MediaFetcher"]

MAX_ADDRESSES = 64  # object stores have eight of each version; all are checked
MAX_DIALS = 8
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class _FetchSpec:
    """One fetch: the kind of media, the request field of its URL, and its limits."""

    kind: MediaType
    param: str
    rules: UrlRules
    max_bytes: int
    timeout_s: float
    on_size: Callable[[int], None]

    @property
    def accept(self) -> str:
        """The value of the `Accept` header."""
        return f"{self.kind.label}/*"

    def fetch_error(self, reason: str) -> InvalidRequestError:
        """An error about what the host did."""
        return self.kind.fetch_error(f"The {self.kind.label}'s host {reason}.", param=self.param)

    def blocked_error(self, reason: str) -> InvalidRequestError:
        """An error about a host that this server may not connect to."""
        return self.kind.blocked_error(f"The {self.kind.label}'s host {reason}.", param=self.param)


class MediaFetcher:
    """Fetches for the whole process, at most `max_fetches` at a time. Call `aclose` after use."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._private_networks = parse_networks(settings.allowed_private_networks)
        self._slots = SharedBudget(
            settings.max_fetches,
            refusal="Too many images and videos are being fetched. Retry later.",
            wait_s=settings.fetch_timeout_s,
        )
        self._resolver = Resolver(settings.max_fetches)
        self._tls = httpx2.create_ssl_context(trust_env=False)

    async def aclose(self) -> None:
        """Stop looking up names."""
        self._resolver.close()

    async def fetch(
        self,
        url: str,
        *,
        param: str,
        kind: MediaType = IMAGE,
        on_size: Callable[[int], None] | None = None,
    ) -> bytes:
        """Fetch a file of at most `max_image_bytes` or `max_video_bytes` bytes.

        Args:
            url: http(s) URL as the user gave it.
            param: JSON path of the image or video in the request.
            kind: What the URL must lead to.
            on_size: Called once with the size of the file, before it is read if the host says it. May raise.

        Raises:
            ImageUrlError, VideoUrlError: The URL is malformed.
            ImageBlockedError, VideoBlockedError: The URL or a redirect leads to a host that this server
                may not connect to.
            ImageFetchError, VideoFetchError: The host did not deliver the file, or not in time.
            ImageTooLargeError, VideoTooLargeError: The file is over the limit.
            EngineOverloadedError: No slot for fetching became free in time.
        """
        spec = self._spec(kind, param, on_size or _ignore)
        if not self._settings.allow_remote:
            raise kind.blocked_error(
                f"This server does not fetch {kind.label}s; send them as data: URLs.", param=param
            )
        target = parse_url(url, spec.rules, param=param)
        # Waiting for a place takes nothing from the host's time.
        with await self._slots.reserve(1):
            try:
                async with asyncio.timeout(spec.timeout_s):
                    return await self._follow(target, spec)
            except TimeoutError:
                raise kind.fetch_timeout_error(
                    f"The {kind.label}'s host did not deliver it in time.", param=param
                ) from None
            except (OSError, ExchangeError):
                raise kind.fetch_error(
                    f"The connection to the {kind.label}'s host failed.", param=param
                ) from None

    def _spec(self, kind: MediaType, param: str, on_size: Callable[[int], None]) -> _FetchSpec:
        settings = self._settings
        rules = UrlRules(frozenset(settings.allowed_ports), settings.allowed_hosts, kind)
        if kind is VIDEO:
            limits = settings.max_video_bytes, settings.video_fetch_timeout_s
        else:
            limits = settings.max_image_bytes, settings.fetch_timeout_s
        return _FetchSpec(kind, param, rules, *limits, on_size)

    async def _follow(self, target: FetchUrl, spec: _FetchSpec) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            async with self._get(target, spec) as exchange:
                if exchange.status not in REDIRECTS:
                    return await _read_body(exchange, spec)
                target = self._redirect_target(target, exchange, spec)
        raise spec.fetch_error(f"redirected more than {self._settings.max_redirects} times")

    def _redirect_target(self, target: FetchUrl, exchange: Exchange, spec: _FetchSpec) -> FetchUrl:
        try:
            location = urljoin(target.url, _encoded(exchange.headers["location"]))
            following = parse_url(location, spec.rules, param=spec.param)
        except (KeyError, ValueError, spec.kind.url_error):
            raise spec.fetch_error("redirected to a URL that is missing or malformed") from None
        if target.scheme == "https" and following.scheme == "http":
            raise spec.blocked_error("redirected from https to http")
        return following

    async def _resolve(self, target: FetchUrl, spec: _FetchSpec) -> tuple[Address, ...]:
        """Resolve the host and check all its addresses; they are in the order to try them."""
        try:
            async with asyncio.timeout(self._settings.resolve_timeout_s):
                addresses = await self._resolver.look_up(target.host, target.port)
        except (OSError, UnicodeError, ValueError) as err:
            if isinstance(err, TimeoutError):
                raise
            raise spec.fetch_error("cannot be found") from None
        if not 0 < len(addresses) <= MAX_ADDRESSES:
            raise spec.fetch_error("cannot be found")
        if not all(is_public_address(ip, self._private_networks) for ip in addresses):
            raise spec.blocked_error("is not one this server may connect to")
        return addresses[:MAX_DIALS]

    @asynccontextmanager
    async def _get(self, target: FetchUrl, spec: _FetchSpec) -> AsyncIterator[Exchange]:
        addresses = await self._resolve(target, spec)
        exchange = await self._dial(target, addresses)
        try:
            try:
                await exchange.send(target, spec.accept)
            except (OSError, ExchangeError):
                if exchange.has_answer:
                    raise
                # The host hung up, as one that restarts does. Its next address gets the second try.
                exchange.close()
                exchange = await self._dial(target, (*addresses[1:], addresses[0]))
                await exchange.send(target, spec.accept)
            yield exchange
        finally:
            exchange.close()

    async def _dial(self, target: FetchUrl, addresses: tuple[Address, ...]) -> Exchange:
        """Connect to the first address that accepts a connection."""
        for ip in addresses[:-1]:
            try:
                return await connect(ip, target, self._tls, self._settings.connect_timeout_s)
            except OSError:
                continue
        return await connect(addresses[-1], target, self._tls, self._settings.connect_timeout_s)


def _encoded(location: str) -> str:
    """The value of a `Location` header with its bytes beyond ASCII percent-encoded, and blanks within it."""
    return quote(location.strip().encode("latin-1"), safe=string.punctuation)


async def _read_body(exchange: Exchange, spec: _FetchSpec) -> bytes:
    _check_head(exchange, spec)
    declared = exchange.declared_bytes
    if declared is not None and declared <= spec.max_bytes:
        spec.on_size(declared)
    body = await exchange.read_body(spec.max_bytes)
    if body is None:
        raise spec.kind.over_limit(spec.max_bytes, spec.param)
    if declared is None:
        spec.on_size(len(body))
    return body


def _ignore(_: int) -> None:
    """Do nothing with the size of a file."""


def _check_head(exchange: Exchange, spec: _FetchSpec) -> None:
    headers = exchange.headers
    if exchange.status != HTTPStatus.OK:
        raise spec.fetch_error(f"answered with status {exchange.status}")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise spec.fetch_error("sent it with a content encoding")
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise spec.fetch_error("sent it with a transfer encoding")
    mime_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if spec.kind is IMAGE and mime_type.startswith("video/"):
        raise spec.fetch_error("sent a video; give its URL in a 'video_url' part of a chat message")
    if not spec.kind.accepts(mime_type):
        article = "an image" if spec.kind is IMAGE else "a video"
        raise spec.fetch_error(f"sent something other than {article}")
