"""Calls from web pages: which origins may call, preflight requests, and the headers a page may read."""

from collections.abc import Callable

import httpx2
import pytest

from tests.live_server import LiveServer

PROXY_HEADERS = {"x-accel-buffering"}
PATH = "/v1/chat/completions"
ORIGIN = "https://app.example.com"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-os",
}


def start(start_server: Callable[..., LiveServer], *origins: str) -> LiveServer:
    return start_server(server={"allowed_origins": origins, "api_keys": ("secret",)})


def test_no_origin_is_allowed_by_default(echo_server: LiveServer) -> None:
    answer = httpx2.options(echo_server.url + PATH, headers=PREFLIGHT, timeout=60)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("allowed", [ORIGIN, "*"])
def test_a_preflight_request_needs_no_key(
    start_server: Callable[..., LiveServer], allowed: str
) -> None:
    answer = httpx2.options(start(start_server, allowed).url + PATH, headers=PREFLIGHT, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == allowed
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]


def test_another_origin_is_refused(start_server: Callable[..., LiveServer]) -> None:
    headers = PREFLIGHT | {"origin": "https://evil.example.com"}
    answer = httpx2.options(start(start_server, ORIGIN).url + PATH, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("key", "status"), [("secret", 200), ("wrong", 401)])
def test_a_page_can_read_answers_and_errors(
    start_server: Callable[..., LiveServer], key: str, status: int, *, stream: bool
) -> None:
    headers = {"origin": ORIGIN, "authorization": f"Bearer {key}"}
    answer = httpx2.post(
        start(start_server, ORIGIN).url + PATH,
        json=HELLO | {"stream": stream},
        headers=headers,
        timeout=60,
    )
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {"x-request-id", "x-ignored-fields", "x-warnings"} <= exposed
    assert {name for name in answer.headers if name.startswith("x-")} <= exposed | PROXY_HEADERS | {
        "x-content-type-options"
    }
