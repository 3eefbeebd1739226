"""Headers of every answer: they say nothing of the server, and browsers can do nothing with the data."""

from collections.abc import Callable

import httpx2
import pytest

from tests.live_server import LiveServer

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def check(headers: httpx2.Headers) -> None:
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert len(headers.get_list("cache-control")) == 1
    assert "no-store" in headers["cache-control"]
    assert headers["content-security-policy"].startswith("default-src 'none'")
    for name in ("server", "x-powered-by", "set-cookie", "access-control-allow-origin"):
        assert name not in headers


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/nope", "/openapi.json"])
def test_answers_have_the_headers(echo_server: LiveServer, path: str) -> None:
    check(echo_server.get(path, headers={"origin": "https://a.example"}).headers)


@pytest.mark.parametrize("body", [CHAT, CHAT | {"stream": True}, b"{"])
def test_answers_of_the_model_have_the_headers(echo_server: LiveServer, body: object) -> None:
    check(echo_server.post(body).headers)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_ends_its_connection_says_so_once(
    echo_server: LiveServer, *, stream: bool
) -> None:
    answer = echo_server.post(CHAT | {"stream": stream}, headers={"connection": "close"})
    assert answer.headers.get_list("connection") == ["close"]


def test_an_answer_without_a_key_has_the_headers(start_server: Callable[..., LiveServer]) -> None:
    check(start_server(server={"api_keys": ["key"]}).get("/v1/models").headers)


def test_the_description_of_the_api_can_be_left_out(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(server={"openapi": False})
    assert server.get("/openapi.json").status_code == 404
    index = server.get("/").json()
    assert "openapi" not in index
    assert "POST /v1/chat/completions" in index["endpoints"]
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert server.get(path).status_code == 404


def test_what_a_client_sent_comes_back_in_no_header_as_it_is(echo_server: LiveServer) -> None:
    """Nothing that is echoed can end a header line."""
    evil = "a\r\nset-cookie: a=b\r\n\r\nbody"
    answer = echo_server.post(CHAT | {evil: 1, "user": evil, "metadata": {evil: evil}})
    assert answer.status_code == 200
    check(answer.headers)
    assert "%0D%0A" in answer.headers["x-ignored-fields"]
    refused = echo_server.post(CHAT | {"model": evil})
    check(refused.headers)
