"""Mutated requests on raw sockets: an answer or a closed connection, and a server that goes on."""

import contextlib
import json
import socket

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.budgets import budget
from tests.live_server import LiveServer

BODY = json.dumps(
    {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
)
POST = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n{BODY}"
)
CHUNKED = (
    "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    'Transfer-Encoding: chunked\r\n\r\nf\r\n{"prompt": "hi"\r\n1\r\n}\r\n0\r\n\r\n'
)
GET = "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PIECES = st.sampled_from(
    [
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        ":",
        "Host: y\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\n",
        "\xff",
        "0\r\n\r\n",
        "-1",
        "ffffffffffffffff",
        "{",
        "[",
        '"',
        "\\",
        "\\ud800",
        "1e999",
        "HTTP/1.1",
        "GET /",
        "?",
        "#",
        "%00",
        "../",
        "x" * 20_000,
    ]
)
EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 8), PIECES | st.text(max_size=2)), max_size=4
)
KNOWN = {200, 400, 401, 404, 405, 408, 413, 414, 415, 426, 431, 501, 505}


def exchange(port: int, data: bytes) -> bytes:
    """What the server sends until it closes; the client sends nothing more."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(65_536):
                answer += piece
    return answer


@budget(300, 50_000)
@given(request=st.sampled_from([POST, CHUNKED, GET]), edits=EDITS)
def test_mutated_requests_are_answered_or_closed(
    echo_server: LiveServer, request: str, edits: list[tuple[int, int, str]]
) -> None:
    for place, num_lost, piece in edits:
        request = request[:place] + piece + request[place + num_lost :]
    answer = exchange(echo_server.port, request.encode("utf-8", "surrogatepass"))
    if answer:
        assert answer.startswith(b"HTTP/1.1 ")
        assert int(answer[9:12]) in KNOWN | {100}, answer[:200]
        assert b" 500 " not in answer
    assert b" 200 OK" in exchange(echo_server.port, GET.encode())
