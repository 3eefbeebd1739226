"""Asks a server one request after another: an app in this process, or a running server by its address."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from internvl_server.app import create_app
from internvl_server.batch.lines import BatchError
from internvl_server.errors import StartupError
from internvl_server.settings import Settings

__all__ = ["BatchClient", "Reply", "app_client", "remote_client"]

_CONNECT_TIMEOUT_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or a refusal. `retry_after_s` is what the server asked to wait, else 0."""

    status: int
    request_id: str
    retry_after_s: float
    body: bytes


class BatchClient:
    """Sends requests; answers may take as long as they take.

    Args:
        transport: Where to.
        base_url: Scheme, host and path prefix, without `/v1`.
        settings: The first of `server.api_keys`, if any, is shown to the server.
    """

    def __init__(
        self, transport: httpx2.AsyncBaseTransport, base_url: str, settings: Settings
    ) -> None:
        headers = {"Content-Type": "application/json"}
        if settings.server.api_keys:
            headers["Authorization"] = f"Bearer {settings.server.api_keys[0].get_secret_value()}"
        self._client = httpx2.AsyncClient(
            transport=transport,
            base_url=base_url,
            headers=headers,
            timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    async def ask(self, url: str, body: bytes) -> Reply:
        """One request.

        Raises:
            ConnectionError: There was no whole answer; it may be sent again.
        """
        try:
            response = await self._client.post(url, content=body)
        except httpx2.HTTPError as err:
            raise ConnectionError(f"no answer ({type(err).__name__})") from err
        asked = response.headers.get("retry-after", "")
        return Reply(
            status=response.status_code,
            request_id=response.headers.get("x-request-id", ""),
            retry_after_s=float(asked) if asked.isdigit() else 0.0,
            body=response.content,
        )

    async def is_ready(self) -> bool:
        """Whether the server can answer now."""
        return (await self._client.get("/ready")).is_success

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


@asynccontextmanager
async def remote_client(url: str, settings: Settings) -> AsyncIterator[BatchClient]:
    """A client of a running server.

    Args:
        url: Its address, with or without `/v1`.
        settings: Hold the key.

    Raises:
        BatchError: The address is not an http(s) one.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise BatchError(f"--url {url!r}: write http://HOST:PORT/v1")
    transport = httpx2.AsyncHTTPTransport(trust_env=False, limits=httpx2.Limits())
    client = BatchClient(transport, url.rstrip("/").removesuffix("/v1"), settings)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def app_client(settings: Settings) -> AsyncIterator[BatchClient]:
    """A client of a server of its own, in this process and without a socket, once it is ready.

    Raises:
        StartupError: It cannot start.
    """
    failures: list[StartupError] = []
    app = create_app(settings, on_fatal=failures.append)
    async with app.router.lifespan_context(app):
        client = BatchClient(httpx2.ASGITransport(app), "http://batch", settings)
        try:
            while not await client.is_ready():
                for failure in failures:
                    raise failure
                await asyncio.sleep(_POLL_S)
            yield client
        finally:
            await client.close()
