"""The ledger of `scripts/load`: good servers leave nothing unexplained, and no lie of a bad one passes."""

import asyncio
import json
from pathlib import Path

import pytest
from internvl_server.settings import EchoSettings

from scripts.load.accounts.exchange import Answer, Leave, request_bytes
from scripts.load.accounts.ledger import Ledger, access_lines, counted_requests
from scripts.load.accounts.outcomes import Outcome
from scripts.load.streams import Address
from tests.live.test_streams import wait_until
from tests.live_server import LiveServer, start_echo_server

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES = "/v1/messages"
ASK = {"model": "tiny", "max_tokens": 8}
CONVERSATION = ASK | {"messages": [{"role": "user", "content": "one two three four"}]}
BODIES = {
    CHAT: CONVERSATION,
    COMPLETIONS: ASK | {"prompt": "one two three four"},
    RESPONSES: {"model": "tiny", "input": "one two three four", "max_output_tokens": 16},
    MESSAGES: CONVERSATION,
}


def request(path: str, **fields: object) -> bytes:
    return request_bytes(path, json.dumps(BODIES[path] | fields).encode())


@pytest.mark.parametrize("stream", [False, True])
async def test_good_answers_are_completed(tiny_checkpoint: Path, stream: bool) -> None:
    ledger = Ledger()
    with start_echo_server(tiny_checkpoint) as server:
        for path in BODIES:
            await ledger.send(Address(server.port), request(path, stream=stream))
        await ledger.send(Address(server.port), request_bytes("/v1/models", method="GET"))
    assert ledger.outcomes == {Outcome.COMPLETED: 5}, ledger.notes
    assert ledger.num_unexplained == 0


async def test_refusals_failures_and_departures_are_told_apart(tiny_checkpoint: Path) -> None:
    ledger = Ledger()
    faults = {"token_delay_s": 0.02, "fail_after_tokens": 2}
    with start_echo_server(tiny_checkpoint, engine={"echo": faults}) as server:
        address = Address(server.port)
        before = metrics(server)
        for path in BODIES:
            await ledger.send(address, request(path, stream=True))
        await ledger.send(address, request(CHAT))
        expected = {Outcome.FAILED: 4, Outcome.REFUSED: 1}  # the one that was not a stream
        assert ledger.outcomes == expected, ledger.notes
        assert ledger.num_server_errors == 0
        await ledger.send(address, request(CHAT, temperature=-1))
        await ledger.send(address, request_bytes("/nowhere", method="GET"))
        assert ledger.outcomes[Outcome.REFUSED] == 3
        for leave in (Leave(after_sent=20), Leave(after_received=1), Leave(after_s=0.01)):
            if leave.after_s is not None:  # it has no answer by then, however late it leaves
                server.engine._settings = EchoSettings(first_token_delay_s=600)
            await ledger.send(address, request(CHAT, stream=True), leave=leave)
        assert ledger.outcomes[Outcome.CANCELLED] == 3
        await asyncio.to_thread(server.wait_idle)  # this loop closes the connection
        # The last request is counted after its answer.
        wait_until(lambda: ledger.compare_with_metrics(before, metrics(server)) == [])
        after = metrics(server)
    counts = counted_requests(after) - counted_requests(before)
    # Of the others one never was a whole request, and one may have ended before.
    assert 1 <= counts["outcome=left"] == counts["status=499"] <= 2
    assert ledger.compare_with_metrics(after, after) != []
    await ledger.send(address, request(CHAT))
    assert ledger.outcomes[Outcome.UNCONNECTED] == 1
    assert ledger.num_unexplained == 0
    assert "11 sent = 0 completed + 3 refused + 4 failed" in ledger.identity


def metrics(server: LiveServer) -> str:
    return server.get("/metrics").text


METRICS = """
internvl_requests_total{outcome="ok",route="/v1/x"} %d.0
internvl_requests_total{outcome="refused",route="/v1/x"} %d.0
internvl_http_responses_total{status="200",route="/v1/x"} %d.0
internvl_http_responses_total{status="400",route="other"} %d.0
internvl_requests_total{outcome="ok",route="/ready"} 9.0
"""


@pytest.mark.parametrize(
    ("counts", "is_right"),
    [
        ((3, 1, 3, 1), True),
        ((4, 1, 4, 1), True),  # one that was cancelled, and answered
        ((2, 1, 3, 1), False),
        ((3, 1, 2, 2), False),
        ((3, 0, 3, 1), False),
        ((5, 1, 5, 1), False),
    ],
)
def test_answers_are_compared_with_the_metrics(counts: tuple[int, ...], is_right: bool) -> None:
    ledger = Ledger()
    error = b'{"error":{"message":"m","type":"t"}}'
    for status, body in ((200, b""), (200, b""), (200, b""), (400, error)):
        ledger.open()
        headers = {"x-request-id": "a"}
        whole = Answer("/v1/x", status, headers, bytearray(body), is_connected=True, is_whole=True)
        ledger.close(whole)
    ledger.open()
    ledger.close(Answer("/v1/x", is_connected=True, has_left=True))
    assert (ledger.compare_with_metrics("", METRICS % counts) == []) is is_right


DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE, ERROR = b"data: [DONE]\n\n", b'data: {"error":{"message":"m","type":"server_error"}}\n\n'
LIES = {
    "nothing": b"",
    "cut head": b"HTTP/1.1 200 OK\r\ncontent-",
    "cut body": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
    "error as success": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n"
    b'{"error":"x"}',
    "error without a body": b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
    "refusal in HTML": b"HTTP/1.1 429 No\r\ncontent-length: 7\r\n\r\n<html/>",
    "not HTTP": b"nonsense\r\n\r\n",
    "stream without an end": DELTA,
    "stream that ends without a finish reason": DELTA + DONE,
    "stream that finishes twice": DELTA + LAST + LAST + DONE,
    "error that looks finished": DELTA + ERROR + DONE,
    "text after the end": DELTA + LAST + DONE + DELTA,
    "two ends": DELTA + LAST + DONE + DONE,
}


def as_answer(content: bytes) -> bytes:
    if not content.startswith(b"data:"):
        return content
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


@pytest.mark.parametrize("lie", LIES)
async def test_no_lie_of_a_server_is_explained(lie: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(as_answer(LIES[lie]))
        writer.close()

    ledger = Ledger()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await ledger.send(Address(port), request_bytes("/x", method="GET"), name=lie)
    assert ledger.num_unexplained == 1
    assert ledger.notes[0].startswith(f"{lie}: ")


def test_a_request_that_never_ends_is_unexplained() -> None:
    ledger = Ledger()
    ledger.open()
    assert ledger.num_unexplained == 1


def test_each_answer_has_one_line_in_the_log() -> None:
    ledger = Ledger()
    for key in ("a", "b", "c"):
        ledger.open()
        ledger.close(Answer("/", 200, {"x-request-id": key}, is_connected=True, is_whole=True))
    line = "2026-01-01 00:00:00,000 INFO server.access [{}] POST /v1/x 200 3ms"
    log = [line.format(key) for key in ("a", "b", "b", "left")]
    assert ledger.compare_with_log([*log, "other"]) == [
        "2 log lines of request b",
        "0 log lines of request c",
    ]
    assert access_lines(log)[0] == ("a", 200)
