"""What many clients, or one that tries everything, can do to the others: nothing."""

import contextlib
import json
import random
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

import httpx2
import pytest

from tests.live_server import LiveServer

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")
PATHS = (
    "/", "/health", "/ready", "/version", "/openapi.json", "/tokenize", "/detokenize", "/v1", "/v1/models",
    "/v1/models/tiny", "/v1/models/%00", "/v1/chat/completions", "/v1/chat/completions/input_tokens",
    "/v1/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses",
    "/v1/responses/input_tokens", "/v1/nothing", "/%ff%fe",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"[]", b"null", b"1e999", b"NaN", b'"\\ud800"', b"{", b"\xff\xfe", b"\x00" * 100, b"true",
    b'{"model":"tiny"}', b'{"a":1,"a":2}', b'{"model":null,"messages":[[]]}', b'{"messages":{}}',
)  # fmt: skip
# Routes of other servers of models that let a client change or read what it must not.
FOREIGN_ROUTES = (
    "/update_weights", "/sleep", "/wakeup", "/is_sleeping", "/abort_request", "/terminate", "/generate",
    "/distserve/p2p_connect", "/v1/encode", "/pooling", "/v1/embeddings", "/invocations", "/pause", "/resume",
    "/load_lora_adapter", "/v1/load_lora_adapter", "/collective_rpc", "/start_profile", "/stop_profile",
    "/reset_prefix_cache", "/update_weights_from_disk", "/init_weights_update_group", "/flush_cache",
    "/get_server_info", "/server_info", "/configure_logging", "/docs", "/redoc",
)  # fmt: skip


def test_every_method_on_every_path_is_answered(echo_server: LiveServer) -> None:
    """160 pairs with bodies of all kinds: no failure, no connection that is lost, and one JSON error each."""
    chooser = random.Random(1)
    with httpx2.Client(base_url=echo_server.url, timeout=60) as client:
        for method in METHODS:
            for path in PATHS:
                body = chooser.choice(BODIES)
                kind = chooser.choice(("application/json", "text/plain", "", "a/b;c=\xe9"))
                headers = {"content-type": kind.encode("latin-1")}
                answer = client.request(method, path, content=body, headers=headers)
                assert answer.status_code in (200, 400, 404, 405, 415), (method, path, body)
                if answer.status_code != 200 and method != "HEAD":
                    assert "error" in answer.json()
    assert echo_server.post(CHAT).status_code == 200


@pytest.mark.parametrize("seed", range(8))
def test_random_changes_of_a_request_do_no_harm(echo_server: LiveServer, seed: int) -> None:
    chooser = random.Random(seed)
    body = json.dumps(CHAT).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    good = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for _ in range(25):
        data = bytearray(good)
        for _ in range(chooser.randint(1, 6)):
            place = chooser.randrange(len(data))
            piece = chooser.choice(
                (b"", b"\r\n", b"\x00", b":", b" ", b"\xff", data[place : place + 9])
            )
            data[place : place + chooser.randrange(3)] = piece
        address = ("127.0.0.1", echo_server.port)
        with (
            socket.create_connection(address, timeout=60) as sock,
            contextlib.suppress(ConnectionError),
        ):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(65536)
            assert not answer or int(answer.split(b" ", 2)[1]) < 500, bytes(data)
    assert echo_server.post(CHAT).status_code == 200


def test_hundreds_of_slow_clients_hold_up_nobody(start_server: Callable[..., LiveServer]) -> None:
    """Half of them send heads, half bodies, and none of them to the end."""
    server = start_server(
        limits={
            "head_timeout_s": 5,
            "body_timeout_s": 5,
            "max_in_flight": 300,
            "max_connections": 600,
        }
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with ExitStack() as stack:
        socks = []
        for number in range(500):
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            socks.append(stack.enter_context(sock))
            sock.sendall(head + (b"Content-Length: 99\r\n\r\n{" if number % 2 else b"X:"))
        for _ in range(3):
            assert server.post(CHAT).status_code == 200
            assert server.get("/health").status_code == 200
        for sock in socks:
            answer = sock.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 408 ")
    server.wait_idle()


@pytest.mark.parametrize("depth", [99, 100, 101, 199, 201, 1000, 100_000])
@pytest.mark.parametrize("ends", [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("is_closed", [True, False])
def test_deep_json_is_refused_or_ignored(
    echo_server: LiveServer, depth: int, ends: tuple[str, str], is_closed: bool
) -> None:
    deep = ends[0] * depth + "1" + ends[1] * depth * is_closed
    in_field = json.dumps(CHAT)[:-1] + f', "metadata": {deep}' + "}"
    for body in (deep, in_field):
        answer = echo_server.post(body.encode())
        assert answer.status_code in ((200, 400) if depth <= 199 and is_closed else (400, 413))
    assert echo_server.post(CHAT).status_code == 200


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_may_have_as_many_bytes_as_the_limit(
    start_server: Callable[..., LiveServer], is_chunked: bool, extra: int
) -> None:
    server = start_server(limits={"max_body_bytes": 5000})
    body = json.dumps(CHAT).encode().ljust(5000 + extra)
    content = iter([body[:1000], body[1000:]]) if is_chunked else body
    answer = httpx2.post(
        f"{server.url}/v1/chat/completions",
        content=content,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == (413 if extra else 200)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_route_of_another_server_exists(echo_server: LiveServer, method: str) -> None:
    for path in FOREIGN_ROUTES:
        answer = httpx2.request(method, echo_server.url + path, json={}, timeout=60)
        assert answer.status_code == 404, path


@pytest.mark.parametrize("other_id", ["shared", "sha"])
def test_a_request_id_of_another_client_stops_nothing(
    start_server: Callable[..., LiveServer], other_id: str
) -> None:
    """Ids of clients may be equal, or the beginning of each other: one that leaves ends its own request."""
    server = start_server(engine={"echo": {"token_delay_s": 0.01}})
    body = CHAT | {"stream": True, "messages": [{"role": "user", "content": "word " * 4}]}
    url = f"{server.url}/v1/chat/completions"
    ended: list[str] = []

    def read_all() -> None:
        with httpx2.stream(
            "POST", url, json=body, headers={"x-request-id": "shared"}, timeout=60
        ) as answer:
            started.set()
            ended.extend(answer.iter_lines())

    started = threading.Event()
    reader = threading.Thread(target=read_all)
    reader.start()
    assert started.wait(60)
    with httpx2.stream(
        "POST", url, json=body, headers={"x-request-id": other_id}, timeout=60
    ) as leaver:
        next(leaver.iter_lines())
    reader.join(60)
    assert "data: [DONE]" in ended
    server.wait_idle()


def test_a_client_cannot_name_a_session(echo_server: LiveServer) -> None:
    answer = echo_server.post(CHAT | {"session_id": 7})
    assert answer.headers["x-ignored-fields"] == "session_id"
