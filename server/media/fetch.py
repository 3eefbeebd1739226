"""Fetch an image over http(s). The only module that opens outgoing connections.

A host is resolved once a hop, every address it has is judged, and the judged address itself is
dialled: the request goes to `https://ADDRESS/…` with the name in `Host`, in the TLS greeting and in
the certificate check, so there is no second resolution to rebind. Redirects are followed by hand.

A transport is used instead of a client: it has no cookies, redirects, proxies, credentials, default
headers or decompression to switch off. Connections are never reused, since the transport knows them
by address while a certificate was checked for a name.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin

import httpx2

from server.errors import (
    EngineOverloadedError,
    ImageBlockedError,
    ImageFetchError,
    ImageFetchTimeoutError,
    ImageTooLargeError,
    ImageUrlError,
)
from server.media.policy import (
    Address,
    FetchUrl,
    UrlRules,
    is_public_address,
    parse_networks,
    parse_url,
)
from server.settings import MediaSettings

__all__ = ["ImageFetcher"]

MAX_ADDRESSES = 64
MAX_DIALS = 8
REDIRECTS = (301, 302, 303, 307, 308)


class ImageFetcher:
    """Fetches images for the whole process, at most `max_fetches` at a time; `aclose` it after use."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._rules = UrlRules(
            ports=frozenset(settings.allowed_ports), hosts=settings.allowed_hosts
        )
        self._private_networks = parse_networks(settings.allowed_private_networks)
        self._slots = asyncio.Semaphore(settings.max_fetches)
        # Its own threads: a name server that hangs must not hold the loop's shared ones.
        self._resolver = ThreadPoolExecutor(settings.max_fetches, thread_name_prefix="resolve")
        self._transport = httpx2.AsyncHTTPTransport(
            trust_env=False,
            limits=httpx2.Limits(max_connections=settings.max_fetches, max_keepalive_connections=0),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        self._resolver.shutdown(wait=False, cancel_futures=True)
        await self._transport.aclose()

    async def fetch(self, url: str, *, param: str) -> bytes:
        """The body that an image URL leads to, at most `max_image_bytes` long.

        Args:
            url: http(s) URL as the user gave it.
            param: JSON path of the image in the request.

        Raises:
            ImageUrlError: The URL is malformed.
            ImageBlockedError: The URL or a redirect leads to where this server may not connect.
            ImageFetchError: The host did not deliver an image, or not in time.
            ImageTooLargeError: The body is over the limit.
            EngineOverloadedError: Every slot for fetching stayed taken.
        """
        if not self._settings.allow_remote:
            raise ImageBlockedError(
                "This server does not fetch images; send them as data: URLs.", param=param
            )
        target = parse_url(url, self._rules, param=param)
        is_started = False
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s), self._slots:
                is_started = True
                return await self._follow(target, param)
        except (TimeoutError, httpx2.TimeoutException):
            if not is_started:
                raise EngineOverloadedError(
                    "Too many images are being fetched; try again shortly.", param=param
                ) from None
            raise ImageFetchTimeoutError(
                "The image's host did not deliver it in time.", param=param
            ) from None
        except httpx2.HTTPError:
            raise ImageFetchError(
                "The connection to the image's host failed.", param=param
            ) from None

    async def _follow(self, target: FetchUrl, param: str) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            async with self._get(target, param) as response:
                if response.status_code not in REDIRECTS:
                    return await self._read_image(response, param)
                target = self._redirect_target(target, response, param)
        raise ImageFetchError(
            f"The image's host redirected more than {self._settings.max_redirects} times.",
            param=param,
        )

    def _redirect_target(self, target: FetchUrl, response: httpx2.Response, param: str) -> FetchUrl:
        try:
            location = urljoin(target.url, response.headers["location"])
            following = parse_url(location, self._rules, param=param)
        except (KeyError, ValueError, ImageUrlError):
            raise ImageFetchError(
                "The image's host redirected to a URL that is missing or malformed.", param=param
            ) from None
        if target.scheme == "https" and following.scheme == "http":
            raise ImageBlockedError("The image's host redirected from https to http.", param=param)
        return following

    async def _resolve(self, target: FetchUrl, param: str) -> tuple[Address, ...]:
        """The addresses of the host, in the order to try them; all were judged."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.resolve_timeout_s):
                addresses = await loop.run_in_executor(
                    self._resolver, _look_up, target.host, target.port
                )
        except (OSError, UnicodeError, ValueError) as err:
            if isinstance(err, TimeoutError):
                raise
            raise ImageFetchError("The image's host cannot be found.", param=param) from None
        if not 0 < len(addresses) <= MAX_ADDRESSES:
            raise ImageFetchError("The image's host cannot be found.", param=param)
        if not all(is_public_address(ip, self._private_networks) for ip in addresses):
            raise ImageBlockedError(
                "The image's host is not one this server may connect to.", param=param
            )
        return addresses[:MAX_DIALS]

    @asynccontextmanager
    async def _get(self, target: FetchUrl, param: str) -> AsyncIterator[httpx2.Response]:
        response = await self._dial(target, await self._resolve(target, param))
        try:
            yield response
        finally:
            await response.aclose()

    async def _dial(self, target: FetchUrl, addresses: tuple[Address, ...]) -> httpx2.Response:
        """Ask the first address that can be connected to."""
        for ip in addresses[:-1]:
            try:
                return await self._ask(self._request(target, ip))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._ask(self._request(target, addresses[-1]))

    async def _ask(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; when that fails or is cancelled its connection is closed.

        httpcore2 2.16 leaves the socket open when a TLS handshake is cancelled, so it is taken note of
        here as it is opened.
        """
        streams: list[Any] = []

        async def note(event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                streams.append(info["return_value"])

        request.extensions["trace"] = note
        try:
            return await self._transport.handle_async_request(request)
        except BaseException:
            for stream in streams:
                await stream.aclose()
            raise

    def _request(self, target: FetchUrl, ip: Address) -> httpx2.Request:
        total_s = self._settings.fetch_timeout_s
        timeouts = {"connect": self._settings.connect_timeout_s, "read": total_s}
        return httpx2.Request(
            "GET",
            httpx2.URL(
                scheme=target.scheme,
                host=str(ip),
                port=target.port,
                raw_path=target.target.encode("ascii"),
            ),
            headers={
                "Host": target.authority,
                "User-Agent": "internvl-server",
                "Accept": "image/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
            },
            extensions={
                "sni_hostname": target.host,
                "timeout": {**timeouts, "write": total_s, "pool": total_s},
            },
        )

    async def _read_image(self, response: httpx2.Response, param: str) -> bytes:
        _check_head(response, param)
        limit = self._settings.max_image_bytes
        if int(response.headers.get("content-length", 0)) > limit:
            raise _too_large(limit, param)
        chunks: list[bytes] = []
        num_bytes = 0
        async with aclosing(response.aiter_raw()) as body:
            async for chunk in body:
                chunks.append(chunk)
                num_bytes += len(chunk)
                if num_bytes > limit:
                    raise _too_large(limit, param)
        return b"".join(chunks)


def _look_up(host: str, port: int) -> tuple[Address, ...]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))


def _check_head(response: httpx2.Response, param: str) -> None:
    headers = response.headers
    if response.status_code != HTTPStatus.OK:
        raise ImageFetchError(
            f"The image's host answered with status {response.status_code}.", param=param
        )
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ImageFetchError("The image's host sent it with a content encoding.", param=param)
    if "content-length" in headers and "transfer-encoding" in headers:
        raise ImageFetchError("The image's host contradicts itself on the length.", param=param)
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (media_type in ("", "application/octet-stream") or media_type.startswith("image/")):
        raise ImageFetchError("The image's host sent something other than an image.", param=param)


def _too_large(limit: int, param: str) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"The image is larger than {limit} bytes, the limit (media.max_image_bytes).", param=param
    )
