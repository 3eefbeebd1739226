"""HTTP clients of a batch: of an app in this process, or of a running server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx2

from internvl_server.app import create_app
from internvl_server.batch.lines import BatchError
from internvl_server.errors import StartupError
from internvl_server.settings import Settings

__all__ = ["app_client", "remote_client"]

_CONNECT_TIMEOUT_S = 10.0
_POLL_S = 0.05


def remote_client(url: str, settings: Settings) -> httpx2.AsyncClient:
    """A client of a running server.

    Args:
        url: The server's address, with or without `/v1`.
        settings: The first of `server.api_keys` is sent with each request.

    Raises:
        BatchError: The address is not an http(s) URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise BatchError(f"--url {url!r}: write http://HOST:PORT/v1")
    return _client(url.rstrip("/").removesuffix("/v1"), settings)


@asynccontextmanager
async def app_client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """Start an app in this process, without a socket, and wait until it is ready.

    Raises:
        StartupError: It cannot start.
    """
    failures: list[StartupError] = []
    app = create_app(settings, on_fatal=failures.append)
    async with (
        app.router.lifespan_context(app),
        _client("http://batch", settings, httpx2.ASGITransport(app)) as client,
    ):
        while not (await client.get("/ready")).is_success:
            for failure in failures:
                raise failure
            await asyncio.sleep(_POLL_S)
        yield client


def _client(
    base_url: str, settings: Settings, transport: httpx2.AsyncBaseTransport | None = None
) -> httpx2.AsyncClient:
    headers = {"Content-Type": "application/json"}
    if settings.server.api_keys:
        headers["Authorization"] = f"Bearer {settings.server.api_keys[0].get_secret_value()}"
    return httpx2.AsyncClient(
        transport=transport,
        base_url=base_url,
        headers=headers,
        timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),  # an answer may take any time
        limits=httpx2.Limits(),  # the runner bounds the number of connections
        trust_env=False,
    )
