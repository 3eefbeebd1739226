"""Without a key nothing is served but what is open on purpose, whatever the path, host or method."""

import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from internvl_server.api.middleware.auth import OPEN_FOLDER, OPEN_PATHS
from starlette.routing import Route

from tests.live.test_streams import hold_tokens
from tests.live_server import LiveServer, start_echo_server

KEY = "the-key-of-alice"


@pytest.fixture(scope="module")
def locked_server(tiny_checkpoint: Path) -> Iterator[LiveServer]:
    server = {"named_keys": [f"alice:{KEY}"], "allowed_origins": ["https://a.example"]}
    with start_echo_server(tiny_checkpoint, server=server) as running:
        yield running


def routes(routers: Iterable[Any]) -> set[tuple[str, str]]:
    """The method and path of every route, with something in the place of parameters."""
    found = set()
    for route in routers:
        if isinstance(route, Route):
            path = route.path.replace("{file:path}", "icon.svg").replace("{name:path}", "tiny")
            found |= {(method, path) for method in route.methods or ()}
        else:  # one that was included; anything else fails here, and must be tried too
            found |= routes(route.original_router.routes)
    return found


def test_every_route_asks_for_a_key(locked_server: LiveServer) -> None:
    tried = routes(locked_server.app.routes)
    assert len(tried) == 26, "whether a new route may be open is decided here"
    open_ones = set()
    for method, path in tried:
        answer = httpx2.request(method, locked_server.url + path, timeout=60)
        if answer.status_code != 401:
            open_ones.add(path)
            assert answer.status_code == 200, path
    assert open_ones == {*OPEN_PATHS, f"{OPEN_FOLDER}icon.svg"}
    assert open_ones == {"/", "/health", "/metrics", "/ready", "/playground/icon.svg"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "PURGE"])
def test_paths_without_a_route_ask_for_a_key(locked_server: LiveServer, method: str) -> None:
    for path in ("/nope", "/v1/nope", "/docs", "/metrics/", "/v1/chat/completions/x"):
        assert httpx2.request(method, locked_server.url + path, timeout=60).status_code == 401


@pytest.mark.parametrize(
    "target",
    [
        "//",
        "/health/",
        "//health",
        "/health//",
        "/./health",
        "/HEALTH",
        "/health%2f",
        "/health%00",
        "/health;/../v1/models",
        "/health/../v1/models",
        "/v1/models?/health",
        "/v1/models#/health",
        "/v1/models/../../health",
        "/%2e%2e/health",
        "http://x/v1/models",
        "http://health/v1/models",
        "http://x/health/../v1/models",
        "http://x@health/v1/models",
        "http:///v1/models",
        "@health",
        "*",
        "health",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_odd_targets_open_nothing(locked_server: LiveServer, method: str, target: str) -> None:
    assert status(locked_server, method, target, "x") in (400, 401)


@pytest.mark.parametrize(
    "host",
    ["x/health?", "a#", "x/health#", "health", "a@b", "x\\health", "[::1", "a b", "x?/health", ""],
)
def test_odd_hosts_open_nothing(locked_server: LiveServer, host: str) -> None:
    for target in ("/v1/models", "/nope"):
        assert status(locked_server, "GET", target, host) in (400, 401)


def status(server: LiveServer, method: str, target: str, host: str) -> int:
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head.encode())
        return int(sock.recv(65536).split(b" ", 2)[1])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/nope", "/ready"])
def test_no_answer_repeats_a_key(locked_server: LiveServer, path: str) -> None:
    for given in (KEY, f"{KEY}x"):
        headers = {"authorization": f"Bearer {given}", "x-api-key": given}
        answer = httpx2.post(
            locked_server.url + path, json={"model": "x"}, headers=headers, timeout=60
        )
        assert answer.status_code >= 400
        assert KEY not in answer.text + str(answer.headers.raw)


def test_no_header_of_a_proxy_replaces_a_key(locked_server: LiveServer) -> None:
    headers = {
        "x-forwarded-for": "127.0.0.1",
        "x-real-ip": "127.0.0.1",
        "forwarded": "for=127.0.0.1",
        "x-original-url": "/health",
        "x-rewrite-url": "/health",
        "x-forwarded-prefix": "/health",
        "x-http-method-override": "OPTIONS",
        "origin": "https://a.example",
    }
    assert locked_server.get("/v1/models", headers=headers).status_code == 401


def test_a_refused_body_is_not_read(locked_server: LiveServer) -> None:
    """The answer comes after 64 KiB of 32 MiB at most, and what follows is not kept."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", locked_server.port), timeout=60) as sock:
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % (32 << 20) + b" " * 1024)
        assert sock.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_keys_can_be_replaced_while_requests_run(
    start_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("alice:one\n")
    server = start_server(server={"keys_file": str(file)})
    may_be_made = hold_tokens(server)
    request = {"model": "tiny", "messages": [{"role": "user", "content": "hi " * 20}]}
    stream = server.client(api_key="one").chat.completions.create(**request, stream=True)
    may_be_made.release()
    next(iter(stream))
    file.write_text("alice:two\n")
    server.app.state.services.keys.reload()
    codes = [
        server.get("/v1/models", headers={"x-api-key": key}).status_code for key in ("one", "two")
    ]
    assert codes == [401, 200]
    may_be_made.release(1000)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"


def test_the_settings_of_a_running_server_have_no_keys(locked_server: LiveServer) -> None:
    settings = locked_server.app.state.services.settings
    assert settings.server.api_keys == settings.server.named_keys == ()
