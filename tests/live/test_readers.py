"""Clients that read late, never or not to the end: what they get, and what the server does about it."""

import hashlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live.test_streams import HELLO, is_idle, wait_until
from tests.live_server import LiveServer

LONG = {"min_tokens": 1500, "max_tokens": 1500}


@pytest.fixture
def narrow(start_server: Callable[..., LiveServer]) -> Callable[..., LiveServer]:
    """Starts servers whose sockets hold little, so that a stalled reader is noticed early."""

    def start(**overrides: Any) -> LiveServer:
        server = start_server(**overrides)
        server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return server

    return start


def ask(server: LiveServer, *, connection: str = "keep-alive", **fields: Any) -> socket.socket:
    """Send a request for a stream on a socket that holds little."""
    body = json.dumps(HELLO | {"stream": True} | fields).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"connection: %b\r\ncontent-length: %d\r\n\r\n" % (connection.encode(), len(body))
    )
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(60)
    client.connect(("127.0.0.1", server.port))
    client.sendall(head + body)
    return client


def read_to_the_end(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def body_of(client: socket.socket) -> bytes:
    """The body of the next answer on a connection that stays open."""
    reader = client.makefile("rb")
    assert b" 200 " in reader.readline()
    while reader.readline() != b"\r\n":
        pass
    body = b""
    while size := int(reader.readline(), 16):
        body += reader.read(size)
        reader.readline()
    reader.readline()
    return body


def chunks_of(body: bytes) -> Iterator[dict[str, Any]]:
    *events, done, rest = body.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return (json.loads(event[6:]) for event in events if not event.startswith(":"))


def texts_of(body: bytes, num_choices: int) -> list[str]:
    """The text of each choice, which all have an end."""
    texts, reasons = [""] * num_choices, [""] * num_choices
    for chunk in chunks_of(body):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
            reasons[choice["index"]] += choice["finish_reason"] or ""
    assert reasons == ["length"] * num_choices
    return texts


@pytest.mark.parametrize(
    "fields",
    [{}, {"n": 3}, {"stop": ["never there"]}, {"logprobs": True, "top_logprobs": 1},
     {"stream_options": {"include_usage": True, "include_obfuscation": True}}],
    ids=str,
)  # fmt: skip
def test_a_reader_that_stalls_and_returns_gets_everything(
    narrow: Callable[..., LiveServer], fields: dict[str, Any]
) -> None:
    server = narrow()
    asked = {name: value for name, value in fields.items() if name != "stream_options"}
    whole = server.post(HELLO | LONG | asked).json()
    expected = [choice["message"]["content"] for choice in whole["choices"]]
    with ask(server, **LONG, **fields) as client:
        wait_until(lambda: server.engine.num_finished == 2 * len(expected))
        time.sleep(0.1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # or it reads on slowly
        body = body_of(client)
        texts = texts_of(body, len(expected))
        assert [len(t) for t in texts] == [len(t) for t in expected]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        assert digests == [hashlib.sha256(text.encode()).digest() for text in expected]
        if "logprobs" in fields:
            entries = [c["choices"][0]["logprobs"] for c in chunks_of(body) if c["choices"]]
            assert sum(len(entry["content"]) for entry in entries if entry) == 1500
        # While it stalled, tokens were joined; the connection serves on.
        assert sum(1 for _ in chunks_of(body)) < 1500 * len(expected)
    wait_until(lambda: is_idle(server))


def test_a_reader_that_never_reads_is_cut(
    narrow: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = narrow(
        server={"send_timeout_s": 0.3, "sse_keep_alive_s": 0.1},
        engine={"echo": {"token_delay_s": 0.0005}},
    )
    with ask(server, **LONG, n=4) as client:
        wait_until(lambda: server.engine.num_started == 4)
        wait_until(lambda: is_idle(server))
        assert server.engine.num_aborted >= 1
        assert b"[DONE]" not in read_to_the_end(client)
    assert "the client stopped reading its stream" in caplog.messages
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert server.post(HELLO).status_code == 200


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_clients_that_leave_at_any_moment_leave_nothing(
    start_server: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    server = start_server(engine={"max_num_seqs": 8, "echo": {"token_delay_s": 0.02}})
    for number in range(20):
        client = ask(server, **LONG)
        time.sleep(0.0025 * number)
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
    wait_until(lambda: is_idle(server))
    assert server.engine.num_aborted == server.engine.num_started
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_connection_serves_one_stream_after_another(echo_server: LiveServer) -> None:
    with ask(echo_server, max_tokens=3) as client:
        first = texts_of(body_of(client), 1)
        body = json.dumps(HELLO | {"stream": True, "max_tokens": 3}).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        )
        client.sendall(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        assert texts_of(body_of(client), 1) == first


def test_a_stop_string_ends_the_engines_request(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"token_delay_s": 0.001}})
    events = server.post(HELLO | {"stop": ["the"], "stream": True}).text
    assert '"finish_reason":"stop"' in events
    assert "[DONE]" in events
    assert (server.engine.num_aborted, server.engine.num_finished) == (1, 0)


def test_the_text_before_a_failure_arrives_before_it(narrow: Callable[..., LiveServer]) -> None:
    server = narrow(engine={"echo": {"fail_after_tokens": 1000}})
    with ask(server, **LONG) as client:
        wait_until(lambda: server.engine.num_failed == 1)
        *events, last, rest = body_of(client).decode().split("\n\n")
    texts = [json.loads(event[6:])["choices"][0]["delta"].get("content") or "" for event in events]
    assert json.loads(last[6:])["error"]["code"] == "engine_error"
    assert rest == ""
    expected = texts_of(
        server.post(HELLO | {"min_tokens": 1000, "max_tokens": 1000, "stream": True}).content, 1
    )
    assert "".join(texts) == expected[0].rstrip("\ufffd")  # half a character


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_slow_reader_gets_the_whole_answer_however_long_it_takes(
    narrow: Callable[..., LiveServer], connection: str
) -> None:
    server = narrow()
    server._server.config.timeout_keep_alive = 1
    with ask(server, max_tokens=1) as one:
        body_of(one)
    fields = LONG | {"n": 8, "logprobs": True, "top_logprobs": 5, "stream": False}
    with ask(server, connection=connection, **fields) as client, client.makefile("rb") as reader:
        assert b" 200 " in reader.readline()
        lines = iter(reader.readline, b"\r\n")
        num_bytes = int(dict(line.split(b": ", 1) for line in lines)[b"content-length"])
        received = b""
        while len(received) < num_bytes and (data := reader.read(num_bytes // 8)):
            received += data
            time.sleep(0.4)
    assert len(json.loads(received)["choices"]) == 8


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_an_answer_that_nobody_reads_does_not_keep_its_connection(
    narrow: Callable[..., LiveServer], connection: str
) -> None:
    server = narrow(server={"keep_alive_s": 1})
    server._server.config.timeout_keep_alive = 1
    body = json.dumps(HELLO | LONG | {"n": 8, "logprobs": True, "top_logprobs": 5}).encode()
    with ask(server, max_tokens=1) as one:
        body_of(one)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", server.port))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"connection: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (connection.encode(), len(body), body)
        )
        wait_until(lambda: server.engine.num_finished == 9)
        wait_until(lambda: not server._server.server_state.connections)


def test_answers_that_nobody_reads_hold_no_connection(
    start_server: Callable[..., LiveServer],
) -> None:
    """Answers to pipelined requests fill the buffers between server and client."""
    server = start_server(server={"named_keys": ["alice:secret"], "unread_timeout_s": 0.3})
    one = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nx-api-key: secret\r\n\r\n"
    address = ("127.0.0.1", server.port)

    def ask(sock: socket.socket) -> None:
        while True:
            sock.sendall(one)
            time.sleep(0.002)

    with socket.create_connection(address, timeout=60) as sock, pytest.raises(ConnectionError):
        ask(sock)  # until the server drops the connection
