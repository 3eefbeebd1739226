"""What a connection may send, and when, on raw sockets: what a client library would never send."""

import contextlib
import gc
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from internvl_server.serve import connection, room, writing
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.live.test_streams import wait_until
from tests.live_server import LiveServer

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def connected(server: LiveServer, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which something was sent at once, not after a pause of this process."""
    while True:
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
            sock.sendall(sent)
            if time.monotonic() - begin > 0.1:
                continue
            yield sock
            return


def read_all(sock: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def read_answer(sock: socket.socket) -> bytes:
    """One answer that gives its length."""
    data = b""
    while b"\r\n\r\n" not in data:
        byte = sock.recv(1)
        assert byte, "the connection was closed before an answer"
        data += byte
    length = int(data.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while length:
        piece = sock.recv(length)
        data, length = data + piece, length - len(piece)
    return data


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return json.loads(body)["error"]


def send_all(sock: socket.socket, data: bytes) -> bytes:
    """Send what the server takes of endless data, and return what it says."""
    with contextlib.suppress(OSError):  # it has closed its side
        sock.sendall(data)
    return read_all(sock)


ENDLESS = {
    "name": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x" * 40_000,
    "value": b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"x" * 40_000,
    "large headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"x: %s\r\n" % (b"x" * 999)) * 40,
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x:\r\n" * 10_000 + b"\r\n",
    "empty lines": b"\r\n" * 40_000,
    "chunk extension": CHUNKED + b"1;" + b"x" * 40_000,
    "chunk extensions": CHUNKED + (b"1;" + b"x" * 999 + b"\r\n{\r\n") * 40,
    "trailer": CHUNKED + b"0\r\nx: " + b"x" * 40_000,
    "trailers": CHUNKED + b"0\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    "one-byte chunks": CHUNKED + b"1\r\n \r\n" * 40_000 + b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_large_heads_and_framing_are_refused(echo_server: LiveServer, name: str) -> None:
    with connected(echo_server) as sock:
        answer = send_all(sock, ENDLESS[name])
    assert status_of(answer) == 431
    assert error_of(answer)["code"] == "request_head_too_large"


@pytest.mark.parametrize("name", ["name", "value", "chunk extension", "one-byte chunks"])
def test_large_heads_are_refused_in_small_pieces(echo_server: LiveServer, name: str) -> None:
    data = ENDLESS[name]
    with connected(echo_server) as sock:
        with contextlib.suppress(OSError):
            for start in range(0, len(data), 100):
                sock.sendall(data[start : start + 100])
        assert status_of(read_all(sock)) == 431


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"garbage\r\n\r\n",
        b"GET /health HTTP/1.1\nHost: x\n\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: b\x00c\r\n\r\n",
        b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x/v1?\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a@x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x:port\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x#\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: \xe4\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health#x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-A : b\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n",
        HEAD + LENGTH + b"Content-Length: 0\r\n\r\n" + BODY,
        HEAD + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"1\r\nab\r\n",
        GET * 200,
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_closed(
    echo_server: LiveServer, request_bytes: bytes
) -> None:
    with connected(echo_server) as sock:
        answer = send_all(sock, request_bytes + GET)
    if request_bytes.startswith(GET):  # an earlier request is being answered
        assert answer.count(b"HTTP/1.1 200") < 200
        return
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_of(answer) == 400
    assert error_of(answer)["type"] == "invalid_request_error"


def test_errors_are_in_the_words_of_the_paths_api(echo_server: LiveServer) -> None:
    with connected(echo_server) as sock:
        answer = send_all(sock, b"POST /v1/messages HTTP/1.1\r\nHost: x\r\n" + b"x:y\r\n" * 200)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "error"


@pytest.mark.parametrize("piece", [100, 20_000])
@pytest.mark.parametrize("url", [b"/" + b"x" * 8192, b"/health?" + b"x" * 8185])
def test_a_long_url_is_refused(echo_server: LiveServer, url: bytes, piece: int) -> None:
    data = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % url
    with connected(echo_server) as sock:
        for start in range(0, len(data), piece):
            sock.sendall(data[start : start + piece])
        answer = read_all(sock)
    assert status_of(answer) == 414
    assert error_of(answer)["code"] == "url_too_long"


def test_a_url_of_the_most_bytes_is_served(echo_server: LiveServer) -> None:
    with connected(echo_server) as sock:
        sock.sendall(b"GET /health?%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 8184))
        assert status_of(read_answer(sock)) == 200


@pytest.mark.parametrize(
    "host",
    [b"x", b"x:80", b"a-b.c_d:8000", b"127.0.0.1", b"[::1]", b"[::ffff:1.2.3.4]:80", b"xn--p1ai"],
)
def test_names_and_addresses_are_hosts(echo_server: LiveServer, host: bytes) -> None:
    with connected(echo_server) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        assert status_of(read_answer(sock)) == 200


def test_only_allowed_hosts_are_served(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"allowed_hosts": ["API.example.com", "127.0.0.1"]})

    def status(path: str, host: str, version: str = "1.1") -> int:
        head = f"GET {path} HTTP/{version}\r\n" + (f"Host: {host}\r\n" if host else "") + "\r\n"
        with connected(server) as sock:
            sock.sendall(head.encode())
            return status_of(sock.recv(65536))

    assert status("/v1/models", "api.EXAMPLE.com:8000") == 200
    assert status("/v1/models", "127.0.0.1") == 200
    assert status("/v1/models", "evil.example") == 400
    assert status("http://api.example.com/v1/models", "evil.example") == 400
    assert status("/v1/models", "", "1.0") == 400
    assert status("/health", "evil.example") == status("/ready", "", "1.0") == 200
    assert status("/health/../v1/models", "evil.example") == 400


def test_more_connections_than_the_limit_are_refused(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_REFUSED_CONNECTIONS", 1)
    monkeypatch.setattr(room, "_GRACE_S", 600.0)  # however late this process goes on
    server = start_server(limits={"max_connections": 2, "head_timeout_s": 600})
    with connected(server) as silent, connected(server) as busy:
        silent.sendall(b"GET")
        busy.sendall(b"GET")
        with connected(server) as refused, connected(server) as dropped:
            for sock in (refused, dropped):  # the latter without waiting until it has read that
                answer = read_all(sock)
                assert status_of(answer) == 429
                assert error_of(answer)["code"] == "engine_overloaded"
                assert b"retry-after: " in answer.lower()
        busy.sendall(GET[3:])
        assert status_of(read_answer(busy)) == 200


def test_a_connection_between_requests_makes_room_for_another(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(limits={"max_connections": 2, "head_timeout_s": 600})
    with connected(server) as idle, connected(server) as busy:
        busy.sendall(b"GET")
        idle.sendall(GET)
        assert status_of(read_answer(idle)) == 200
        with connected(server) as newer:
            newer.sendall(GET)
            assert status_of(read_answer(newer)) == 200
            assert not idle.recv(1)
            busy.sendall(GET[3:])
            assert status_of(read_answer(busy)) == 200


def test_the_connection_that_is_idle_for_longest_makes_room(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(limits={"max_connections": 8})
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(server)) for _ in range(8)]
        for sock in [*socks, *socks[4:], *socks[:4]]:
            sock.sendall(GET)
            assert status_of(read_answer(sock)) == 200
        for longest in [*socks[4:], *socks[:3]]:
            newer = stack.enter_context(connected(server))
            newer.sendall(GET)
            assert status_of(read_answer(newer)) == 200
            assert not longest.recv(1)
        socks[3].sendall(GET)
        assert status_of(read_answer(socks[3])) == 200


def test_silent_clients_leave_room_for_others(start_server: Callable[..., LiveServer]) -> None:
    """One that has waited longer than a second without a head is dropped for a newer one."""
    server = start_server(limits={"max_connections": 3, "head_timeout_s": 600})
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(server)) for _ in range(3)]
        for sock in socks:
            sock.sendall(GET[:9])
        statuses = [429]
        while statuses[-1] == 429:  # for a second from when the server has accepted the oldest
            time.sleep(0.2)
            served = stack.enter_context(connected(server))
            served.sendall(GET)
            statuses.append(status_of(read_answer(served)))
        assert statuses[-1] == 200
        assert status_of(read_all(socks[0])) == 429
        for sock in socks[1:]:
            sock.sendall(GET[9:])
            assert status_of(read_answer(sock)) == 200


def test_a_thousand_clients_of_one_address_are_served(
    start_server: Callable[..., LiveServer],
) -> None:
    """They connect before the server reads a request, as those behind a balancer may."""
    server = start_server(limits={"head_timeout_s": 600})
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(server)) for _ in range(1000)]
        for sock in socks:
            sock.sendall(GET)
        assert [status_of(read_answer(sock)) for sock in socks] == [200] * 1000


def test_heads_within_the_limits_are_served(echo_server: LiveServer) -> None:
    with connected(echo_server) as sock:
        sock.sendall(GET[:-2] + b"x: " + b"y" * 15_000 + b"\r\n\r\n")
        assert status_of(read_answer(sock)) == 200
        sock.sendall(GET[:-2] + b"x: y\r\n" * 90 + b"\r\n")
        assert status_of(read_answer(sock)) == 200


def test_chunked_bodies_are_served(echo_server: LiveServer) -> None:
    pieces = [BODY[i : i + 1] for i in range(len(BODY))] + [b" " * 100] * 10_000
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    with connected(echo_server) as sock:
        sock.sendall(CHUNKED + chunks + b"0\r\nX-Trailer: x\r\n\r\n" + GET)
        assert status_of(read_answer(sock)) == 200
        assert status_of(read_answer(sock)) == 200


def test_one_byte_writes_and_pipelined_requests_are_served_in_order(
    echo_server: LiveServer,
) -> None:
    with connected(echo_server) as sock:
        for byte in HEAD + LENGTH + b"\r\n" + BODY:
            sock.sendall(bytes([byte]))
        assert b"chat.completion" in read_answer(sock)
        sock.sendall(GET + HEAD + LENGTH + b"\r\n" + BODY + GET.replace(b"health", b"nothing"))
        assert [status_of(read_answer(sock)) for _ in range(3)] == [200, 200, 404]


def test_a_request_whose_length_is_too_short_is_answered(echo_server: LiveServer) -> None:
    """As from a program that counts characters instead of bytes: the rest is taken for a request."""
    with connected(echo_server) as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (len(BODY) - 2) + BODY)
        answer = read_answer(sock)
        assert status_of(answer) == 400
        assert b"invalid_json" in answer
        assert status_of(read_all(sock)) == 400


def test_a_request_before_one_with_a_broken_body_is_answered(echo_server: LiveServer) -> None:
    with connected(echo_server) as sock:
        sock.sendall(HEAD + LENGTH + b"\r\n" + BODY + CHUNKED + b"3\r\nabc, and no end of a chunk")
        assert b"chat.completion" in read_answer(sock)
        assert error_of(read_all(sock))["code"] == "invalid_request"


def test_requests_before_one_too_many_are_answered(echo_server: LiveServer) -> None:
    with connected(echo_server) as sock:
        sock.sendall(HEAD + LENGTH + b"\r\n" + BODY + GET * 100)
        answer = read_all(sock)
    assert answer.count(b"HTTP/1.1 200 OK") > 1
    assert answer.count(b"HTTP/1.1 400 Bad Request") == 1
    assert answer.endswith(b'"code":"invalid_request"}}')


@pytest.mark.parametrize("following", [b"", GET, GET + b"garbage\r\n\r\n"])
def test_a_client_that_leaves_ends_its_stream_whatever_it_sent_after_it(
    start_server: Callable[..., LiveServer], following: bytes
) -> None:
    server = start_server(engine={"kind": "echo", "echo": {"token_delay_s": 0.1}})
    request = {"stream": True, "messages": [{"role": "user", "content": "word " * 200}]}
    body = json.dumps({"model": "tiny", **request}).encode()
    with connected(server) as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert status_of(sock.recv(1000)) == 200
        sock.sendall(following)
        time.sleep(0.1)
    server.wait_idle()
    assert server.engine.num_aborted == 1


@pytest.mark.parametrize("is_stream", [False, True])
def test_answers_in_http_1_0_end_with_the_connection_and_have_no_chunks(
    echo_server: LiveServer, is_stream: bool
) -> None:
    request = {"stream": is_stream, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps({"model": "tiny", **request}).encode()
    with connected(echo_server) as sock:
        head = HEAD.replace(b"1.1", b"1.0")
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head, _, answer = read_all(sock).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert answer.startswith(b'data: {"id"' if is_stream else b'{"id"')
    assert answer.endswith(b"data: [DONE]\n\n" if is_stream else b"}")


def test_head_requests_have_no_body(echo_server: LiveServer) -> None:
    with connected(echo_server) as sock:
        sock.sendall(
            GET.replace(b"GET", b"HEAD").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert status_of(head) in (200, 405)
    assert not body


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PUT", "PATCH", "DELETE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/v1/chat/completions", "/nope"])
def test_other_methods_are_refused_and_nothing_is_echoed(
    echo_server: LiveServer, method: str, path: str
) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nCookie: secret\r\nConnection: close\r\n\r\n"
    with connected(echo_server) as sock:
        sock.sendall(head.encode())
        answer = read_all(sock)
    assert status_of(answer) == (404 if path == "/nope" else 405)
    assert b"secret" not in answer


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: multipart/form-data; boundary=x\r\n",
        b"Content-Type: application/x-www-form-urlencoded\r\n",
        b"Content-Type: text/plain\r\n",
        b"Content-Type: application/jsonx\r\n",
        b"Content-Type: \r\n",
        b"",
        b"Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
        b"Content-Type: application/json\r\nContent-Encoding: identity, br\r\n",
        b"Content-Type: application/json\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        b"Content-Type: application/json\r\nContent-Type: text/plain\r\n",
    ],
)
@pytest.mark.parametrize(
    "path", ["chat/completions", "completions", "responses", "messages", "messages/count_tokens"]
)
def test_only_plain_json_is_read(echo_server: LiveServer, headers: bytes, path: str) -> None:
    head = b"POST /v1/%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % path.encode()
    with connected(echo_server) as sock:
        sock.sendall(head + headers + LENGTH + b"\r\n" + BODY)
        assert status_of(read_all(sock)) == 415


@pytest.mark.parametrize("expect", [b"200-ok", b"100-continue, x", b"\x80"])
def test_other_expectations_do_no_harm(echo_server: LiveServer, expect: bytes) -> None:
    with connected(echo_server) as sock:
        sock.sendall(HEAD + LENGTH + b"Expect: %b\r\n\r\n" % expect + BODY)
        assert status_of(sock.recv(65536)) in (100, 200, 400, 417)


def test_expect_continue_is_answered_before_the_body(echo_server: LiveServer) -> None:
    with connected(echo_server) as sock:
        sock.sendall(HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
        assert status_of(read_answer(sock)) == 200


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_a_declined_upgrade_keeps_the_body(echo_server: LiveServer, protocol: bytes) -> None:
    """Java's HttpClient asks for h2c in its first request."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAE\r\nUpgrade: %b\r\n\r\n"
    with connected(echo_server) as sock:
        sock.sendall(HEAD + LENGTH + upgrade % protocol + BODY[:10])
        time.sleep(0.1)
        sock.sendall(BODY[10:] + GET)
        assert b"chat.completion" in read_answer(sock)
        assert status_of(read_answer(sock)) == 200


@pytest.fixture
def impatient_server(start_server: Callable[..., LiveServer]) -> LiveServer:
    return start_server(
        limits={"head_timeout_s": 0.3, "body_timeout_s": 0.6}, server={"api_keys": ["key"]}
    )


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"\r\n", None),
        (b"GET /heal", 408),
        (GET[:-2] + b"x: ", 408),
        (GET + b"GET", 408),
    ],
)
def test_slow_heads_are_refused_and_silent_connections_closed(
    impatient_server: LiveServer, sent: bytes, status: int | None
) -> None:
    with connected(impatient_server, sent) as sock:
        if sent.startswith(GET):
            assert status_of(read_answer(sock)) == 200
        answer = read_all(sock)
    assert (status_of(answer) if answer else None) == status


def test_a_body_that_is_still_sent_after_the_answer_does_not_hold_the_connection(
    impatient_server: LiveServer,
) -> None:
    with connected(impatient_server, HEAD + LENGTH + b"\r\n" + BODY[:10]) as sock:
        answer = read_all(sock)
    assert status_of(answer) == 401


def test_a_connection_serves_on_when_the_rest_of_a_refused_body_has_arrived(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(limits={"head_timeout_s": 600}, server={"api_keys": ["key"]})
    with connected(server) as sock:
        sock.sendall(HEAD + LENGTH + b"\r\n" + BODY[:10])
        assert status_of(read_answer(sock)) == 401
        held = connection_of(sock)
        wait_until(lambda: held._deadline is not None)
        sock.sendall(BODY[10:])
        wait_until(lambda: held._deadline is None)  # it may be idle for as long as others
        sock.sendall(GET)
        assert status_of(read_answer(sock)) == 200


def test_a_client_that_is_still_sending_can_read_the_answer(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(server={"api_keys": ["key"]}, limits={"head_timeout_s": 600})
    size = 3_000_000
    with connected(server) as sock:
        sock.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size)
        time.sleep(0.2)  # it has been refused
        for _ in range(30):
            sock.sendall(b" " * (size // 30))
            time.sleep(0.01)
        answer = read_all(sock)
    assert status_of(answer) == 401
    assert error_of(answer)["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/chat/completions#x"])
def test_a_client_that_sends_for_long_can_read_the_answer(
    start_server: Callable[..., LiveServer], path: bytes
) -> None:
    """As one that uploads pictures over a slow line: it is waited for as for a body that is read."""
    server = start_server(limits={"head_timeout_s": 2}, server={"api_keys": ["key"]})
    with connected(server) as sock:
        sock.sendall(HEAD.replace(b"/v1/chat/completions", path) + b"Content-Length: 1000\r\n\r\n")
        for _ in range(30):
            time.sleep(0.1)
            sock.sendall(b" ")
        assert status_of(read_answer(sock)) == (400 if b"#" in path else 401)


def test_a_refused_client_that_sends_without_end_does_not_hold_the_connection(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_LINGER_S", 0.3)
    server = start_server(limits={"body_timeout_s": 1})
    deadline = time.monotonic() + 60
    with connected(server) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(b"garbage\r\n\r\n")
        while True:
            sock.sendall(b" ")
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_reset_connection_leaves_nothing_of_its_request(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server()
    with connected(server) as sock:
        sock.sendall(GET.replace(b"/health", b"/reset-after-this"))
        assert status_of(read_answer(sock)) == 404
        assert len(cycles_of("/reset-after-this")) == 1
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not cycles_of("/reset-after-this"))  # earlier than an idle connection ends


def all_of(kind: type) -> list[Any]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is kind]


def connection_of(client: socket.socket) -> connection.Connection:
    [held] = [c for c in all_of(connection.Connection) if c.client == client.getsockname()]
    return held


def cycles_of(path: str) -> list[RequestResponseCycle]:
    return [cycle for cycle in all_of(RequestResponseCycle) if cycle.scope["path"] == path]


@pytest.mark.parametrize(
    ("header", "rest"),
    [(b"", b""), (b"Connection: close\r\n", b""), (b"Connection: close\r\n", BODY[10:])],
)
def test_a_client_that_reads_nothing_does_not_hold_the_connection(
    start_server: Callable[..., LiveServer], header: bytes, rest: bytes
) -> None:
    server = start_server(limits={"head_timeout_s": 3}, server={"api_keys": ["key"]})
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(GET)
        assert status_of(read_answer(sock)) == 200
        held = connection_of(sock)
        while not held.transport.get_write_buffer_size():  # the system's buffers are not full
            last = held.cycle
            sock.sendall(GET.replace(b"/health", b"/metrics"))
            while held.cycle is last or not held.cycle.response_complete:
                time.sleep(0.002)
        held.timeout_keep_alive = 1
        sock.sendall(HEAD + LENGTH + header + b"\r\n" + BODY[:10])
        time.sleep(0.1)  # it has been refused
        with contextlib.suppress(ConnectionError):  # it may have closed the connection
            sock.sendall(rest)
        wait_until(lambda: held not in held.connections)


def test_after_a_refused_body_nothing_is_served(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"api_keys": ["key"]})
    with connected(server) as sock:
        sock.sendall(HEAD + LENGTH + b"Connection: close\r\n\r\n" + BODY[:10])
        time.sleep(0.2)
        with contextlib.suppress(OSError):  # it may have closed the connection
            sock.sendall(BODY[10:] + GET)
        answer = read_all(sock)
    assert status_of(answer) == 401
    assert answer.count(b"HTTP/1.1") == 1


def test_a_slow_body_is_refused(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(limits={"head_timeout_s": 0.3, "body_timeout_s": 0.6})
    with connected(server, HEAD + LENGTH + b"\r\n" + BODY[:10]) as sock:
        answer = read_all(sock)
    assert status_of(answer) == 408
    assert b"limits.body_timeout_s" in answer
