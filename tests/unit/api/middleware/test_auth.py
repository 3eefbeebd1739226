"""The key check hands the name of the key on, and nothing passes it without one."""

from typing import Any

import pytest
from internvl_server.api.middleware.auth import ANONYMOUS, AuthMiddleware
from internvl_server.api.middleware.keys import KeyRing
from internvl_server.settings import ServerSettings


async def client_of(
    keys: list[str], headers: dict[str, str], path: str = "/v1/models"
) -> str | None:
    """The client that the app behind the check sees; None if the request does not reach it."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["client"])

    async def receive() -> Any:
        pytest.fail("the key is checked before the body is read")

    async def send(message: Any) -> None:
        assert message.get("status", 401) == 401

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await AuthMiddleware(app, KeyRing(ServerSettings(api_keys=keys)))(scope, receive, send)
    return seen[0] if seen else None


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"authorization": "Bearer one"}, "key-1"),
        ({"authorization": "bearer  two "}, "key-2"),
        ({"x-api-key": "two"}, "key-2"),
        ({"authorization": "Bearer wrong", "x-api-key": "one"}, "key-1"),
        ({"authorization": "Basic one"}, None),
        ({"authorization": "Bearer one two"}, None),
        ({"authorization": "Bearer"}, None),
        ({"x-api-key": ""}, None),
        ({}, None),
    ],
)
async def test_the_app_sees_the_name_of_the_key(
    headers: dict[str, str], client: str | None
) -> None:
    assert await client_of(["one", "two"], headers) == client


async def test_without_keys_everyone_is_anonymous() -> None:
    assert await client_of([], {"authorization": "Bearer one"}) == ANONYMOUS
    assert await client_of(["one"], {}, "/health") == ANONYMOUS
