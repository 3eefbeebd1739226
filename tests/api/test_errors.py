"""One envelope for every refusal, whoever makes it."""

import time
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from internvl_server.api.admission import GateState
from internvl_server.api.streaming.response import EventStream
from internvl_server.engine.base import EngineHealth
from internvl_server.media.workers.supply import PoolHealth

from tests.live_server import LiveServer

JSON = {"content-type": "application/json"}
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def assert_envelope(response: Any, status: int, code: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["param"] == param
    assert response.headers["x-should-retry"] == ("true" if status in (429, 503) else "false")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"temperature": 9}, "invalid_value", "temperature"),
        ({"n": 17}, "invalid_value", "n"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].function"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
            "unsupported_parameter",
            "tools[0].type",
        ),
        ({"tool_choice": "required"}, "invalid_request", "tool_choice"),
        ({"response_format": {"type": "nope"}}, "invalid_value", "response_format.type"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"max_tokens": 10**6}, "context_length_exceeded", "messages"),
    ],
)
def test_bad_requests(
    echo_server: LiveServer, fields: dict[str, Any], code: str, param: str
) -> None:
    assert_envelope(echo_server.post(HELLO | fields), 400, code, param)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1/x.png", "image_url_blocked"),
        ("file:///etc/hostname", "invalid_image_url"),
        ("data:image/png;base64,!!!!", "invalid_image_url"),
        ("data:image/png;base64,aGVsbG8=", "invalid_image"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_bad_images_name_their_part_before_any_byte(
    echo_server: LiveServer, picture_url: Callable[..., str], url: str, code: str, stream: bool
) -> None:
    parts = [{"type": "image_url", "image_url": {"url": u}} for u in (picture_url(), url)]
    messages = [{"role": "user", "content": "x"}, {"role": "user", "content": parts}]
    response = echo_server.post(HELLO | {"messages": messages, "stream": stream})
    assert_envelope(response, 400, code, "messages[1].content[1].image_url")
    assert echo_server.gate.num_in_flight == 0


def test_framework_refusals_wear_the_same_envelope(echo_server: LiveServer) -> None:
    assert_envelope(echo_server.get("/nope"), 404, "route_not_found")
    assert_envelope(echo_server.get("/v1/chat/completions"), 405, "method_not_allowed")
    refused = httpx2.options(echo_server.url + "/health", timeout=60)
    assert_envelope(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD"
    assert_envelope(echo_server.get("/v1/models/x"), 404, "model_not_found", "model")
    assert_envelope(echo_server.post(HELLO | {"model": "x"}), 404, "model_not_found", "model")
    assert_envelope(echo_server.post(b"{"), 400, "invalid_json")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-encoding": "gzip"},
    ],
)
def test_only_plain_json_is_read(echo_server: LiveServer, headers: dict[str, str]) -> None:
    assert_envelope(echo_server.post(b"{}", headers=headers), 415, "unsupported_media_type")


def test_bodies_are_bounded_by_length_and_by_count(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(limits={"max_body_bytes": 1000})
    assert_envelope(server.post(b"x" * 1001), 413, "request_too_large")

    def chunks() -> Any:
        yield from (b"x" * 100 for _ in range(11))

    import httpx2

    response = httpx2.post(
        f"{server.url}/v1/chat/completions",
        content=chunks(),
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert_envelope(response, 413, "request_too_large")


def test_slow_bodies_end(start_server: Callable[..., LiveServer]) -> None:
    import socket

    server = start_server(limits={"body_timeout_s": 0.2})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + b"content-length: 10\r\n\r\n{")
        assert b" 408 " in connection.recv(4096)


def test_keys_are_asked_for_before_the_body(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"api_keys": ["secret-1", "secret-2"]})
    assert server.get("/health").status_code == 200
    assert server.get("/ready").status_code == 200
    for path in ("/v1/models", "/nope", "/health/", "/openapi.json"):
        assert_envelope(server.get(path), 401, "invalid_api_key")
    assert_envelope(server.post(HELLO), 401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key="secret").models.list()
    assert server.client(api_key="secret-2").models.list().data


def test_more_than_the_limit_is_refused_at_once(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(limits={"max_in_flight": 1}, engine={"echo": {"hang_after_tokens": 1}})
    client = server.client()
    stream = client.chat.completions.create(**HELLO, stream=True)
    next(iter(stream))
    response = server.post(HELLO)
    assert_envelope(response, 429, "engine_overloaded")
    assert int(response.headers["retry-after"]) >= 1
    stream.close()


def test_a_draining_server_says_so(start_server: Callable[..., LiveServer]) -> None:
    server = start_server()
    server.gate.state = GateState.DRAINING
    assert_envelope(server.get("/ready"), 503, "server_shutting_down")
    assert_envelope(server.post(HELLO), 503, "server_shutting_down")
    assert server.get("/health").status_code == 200


def test_request_ids_are_echoed_only_when_harmless(echo_server: LiveServer) -> None:
    get = echo_server.get
    assert get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a b", "x" * 129, "a/b", "http://evil"):
        assert get("/health", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_an_engine_failure_is_a_503_that_advises_no_retry(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 2}})
    response = server.post(HELLO)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_error")
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    assert server.gate.num_in_flight == 0


def test_a_defect_is_a_500_in_the_envelope_with_the_requests_id(
    start_server: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    server.engine.generate = None  # whatever the defect is
    assert_envelope(server.post(HELLO), 500, "internal_error")
    assert "Traceback" in caplog.text
    assert server.gate.num_in_flight == 0


def test_too_many_tiles_in_flight_are_refused(
    start_server: Callable[..., LiveServer], picture_url: Callable[..., str]
) -> None:
    server = start_server(
        limits={"max_tiles_in_flight": 1, "queue_timeout_s": 1},
        engine={"echo": {"first_token_delay_s": 600}},
    )
    part = {"type": "image_url", "image_url": {"url": picture_url(), "detail": "low"}}
    body = HELLO | {"messages": [{"role": "user", "content": [part]}]}
    stream = server.client().chat.completions.create(**body, stream=True)
    server.app.state.services.pipeline._prompts._media._pool.tile = (
        None  # a refusal costs no decoding
    )
    assert_envelope(server.post(body), 429, "engine_overloaded")
    assert server.gate.num_in_flight == 1
    stream.close()


def test_an_engine_that_is_not_ready_refuses_before_the_body_is_read(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server()
    server.engine.health = lambda: EngineHealth(is_ready=False, reason="The engine is loading.")
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        response = httpx2.post(server.url + path, content=b"{", headers=JSON, timeout=60)
        assert_envelope(response, 503, "engine_unavailable")
        assert "loading" in response.json()["error"]["message"]
    server.engine.health = lambda: EngineHealth(is_ready=True, reason="")


def test_only_an_engine_that_hangs_fails_the_liveness_probe(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server()
    server.engine.health = lambda: EngineHealth(is_ready=False, reason="The engine is loading.")
    assert httpx2.get(server.url + "/health", timeout=60).status_code == 200
    hung = EngineHealth(is_ready=False, reason="no progress for 31 s", is_alive=False)
    server.engine.health = lambda: hung
    for path in ("/health", "/ready"):
        response = httpx2.get(server.url + path, timeout=60)
        assert_envelope(response, 503, "engine_unavailable")
        assert "31 s" in response.json()["error"]["message"]
    server.engine.health = lambda: EngineHealth(is_ready=True, reason="")


def test_processes_that_do_not_start_for_long_fail_the_liveness_probe(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server()
    media = server.app.state.services.media
    now = time.monotonic()
    for since, status in ((now, 200), (now - 100, 503)):
        broken = PoolHealth(problem="They do not start.", problem_since=since)
        media.pools = lambda broken=broken: {"image": broken}
        assert server.get("/ready").status_code == 503
        assert server.get("/health").status_code == status


def test_no_redirect_is_built_from_the_clients_host(echo_server: LiveServer) -> None:
    assert_envelope(echo_server.get("/health/"), 404, "route_not_found")


def test_probes_may_use_head(echo_server: LiveServer) -> None:
    import httpx2

    for path in ("/health", "/ready"):
        assert httpx2.head(echo_server.url + path, timeout=60).status_code == 200


def test_many_tiny_elements_are_refused_at_once(echo_server: LiveServer) -> None:
    many = {"stop": [0] * 100_000}
    assert_envelope(echo_server.post(HELLO | many), 400, "invalid_request", "stop")
    assert_envelope(
        echo_server.post(HELLO | {"messages": [{}] * 60_000}), 400, "invalid_request", "messages"
    )
    assert_envelope(
        echo_server.post(HELLO | {"stop": [0] * 500_000}), 413, "request_too_large", None
    )


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "responses",
            '"input": "hi", "tools": [{"type": "function", "name": "f", "parameters": N}]',
        ),
        ("responses", '"input": "hi", "metadata": {"a": N}'),
        ("chat/completions", '"messages": [], "tools": [{"function": {"parameters": N}}]'),
        ("chat/completions", '"messages": [], "structured_outputs": {"json": N}'),
        (
            "messages",
            '"max_tokens": 1, "messages": [], "tools": [{"name": "f", "input_schema": N}]',
        ),
        ("completions", '"prompt": "hi", "temperature": N'),
    ],
)
def test_numbers_that_are_infinite_in_a_float_are_refused(
    echo_server: LiveServer, path: str, body: str, stream: str
) -> None:
    """JSON has no infinity: it would be in an answer that repeats the field."""
    number = body.replace("N", '{"maximum": -1e400}' if "{" in body else "1e400")
    response = httpx2.post(
        f"{echo_server.url}/v1/{path}",
        content=f'{{"model": "tiny", "stream": {stream}, {number}}}',
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert response.status_code == 400
    assert "the number is too large" in response.json()["error"]["message"]


@pytest.mark.parametrize("broken", ["__init__", "take_over"])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages", "responses"])
def test_a_response_that_cannot_be_built_holds_nothing(
    echo_server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str, broken: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no response")

    monkeypatch.setattr(EventStream, broken, fail)
    needed = {
        "chat/completions": HELLO,
        "completions": {"prompt": "hi"},
        "messages": HELLO | {"max_tokens": 300},
        "responses": {"input": "hi"},
    }
    fields = {"model": "tiny", "stream": True} | needed[path]
    response = httpx2.post(f"{echo_server.url}/v1/{path}", json=fields, timeout=60)
    assert response.status_code == 500
    assert '"internal_error"' in response.text
    echo_server.wait_idle()


def test_a_key_that_is_not_ascii_is_refused(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"api_keys": ["secret"]})
    for key in ("sécret".encode(), "sécret".encode("latin-1")):
        headers = {"authorization": b"Bearer " + key}
        assert_envelope(server.get("/v1/models", headers=headers), 401, "invalid_api_key")


def test_the_model_says_what_it_takes(echo_server: LiveServer) -> None:
    [model] = echo_server.get("/v1/models").json()["data"]
    assert model["input_modalities"] == ["text", "image", "video"]
