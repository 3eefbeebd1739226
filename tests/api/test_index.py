"""`/`, `/v1` and `/v1/models`: what a browser, a probe or a program sees first."""

import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from internvl_server import __version__

from tests.api.test_errors import assert_envelope
from tests.live_server import LiveServer


@pytest.mark.parametrize("path", ["/", "/v1"])
def test_it_says_what_this_is(echo_server: LiveServer, path: str) -> None:
    shown = echo_server.get(path).json()
    endpoints = shown.pop("endpoints")
    assert shown == {
        "name": "internvl-server",
        "version": __version__,
        "openapi": "/openapi.json",
    }
    assert {"POST /v1/chat/completions", "GET /v1/models/{name}", "GET /"} <= set(endpoints)
    for endpoint in endpoints:
        method, _, route = endpoint.partition(" ")
        answer = httpx2.request(
            method, echo_server.url + route.replace("{name}", "tiny"), timeout=60
        )
        assert answer.status_code in (200, 400, 415)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models", "/v1/models/tiny"])
def test_head_is_get_without_a_body(echo_server: LiveServer, path: str) -> None:
    head, get = httpx2.head(echo_server.url + path, timeout=60), echo_server.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


def test_an_unknown_model_is_not_found_by_head(echo_server: LiveServer) -> None:
    assert httpx2.head(f"{echo_server.url}/v1/models/x", timeout=60).status_code == 404


def test_only_the_root_needs_no_key(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"api_keys": ["secret"]})
    shown = server.get("/")
    assert shown.status_code == 200
    assert "secret" not in shown.text
    assert httpx2.head(server.url + "/", timeout=60).status_code == 200
    assert_envelope(server.get("/v1"), 401, "invalid_api_key")
    key = {"authorization": "Bearer secret"}
    assert server.get("/v1", headers=key).json() == shown.json()


@pytest.mark.parametrize("path", ["/", "/v1", "/openapi.json"])
def test_the_document_is_not_made_on_the_event_loop(
    start_server: Callable[..., LiveServer], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    threads: list[threading.Thread] = []

    def make(**_: object) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return {"paths": {}, "components": {}}

    monkeypatch.setattr("fastapi.applications.get_openapi", make)
    assert server.get(path).status_code == 200
    assert threads
    assert server.thread not in threads
