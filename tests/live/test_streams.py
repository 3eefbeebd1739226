"""How streams flow and end, on real sockets, judged by what the engine saw."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx2
import openai
import pytest

from tests.live_server import LiveServer

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi there"}]}


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.01)


def events(server: LiveServer, **fields: Any) -> Generator[str]:
    """Events as text, as they arrive."""
    url = f"{server.url}/v1/chat/completions"
    with httpx2.stream("POST", url, json=HELLO | {"stream": True} | fields, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        buffer = ""
        for text in answer.iter_text():
            buffer += text
            *whole, buffer = buffer.split("\n\n")
            yield from whole
        assert buffer == ""


def is_idle(server: LiveServer) -> bool:
    health = server.engine.health()
    return not (health.num_running or health.num_waiting or server.gate.num_in_flight)


def asked(
    server: LiveServer, path: str = "/v1/chat/completions", *, key: str = "none", **fields: Any
) -> socket.socket:
    """The connection of a request that the engine has begun to answer."""
    num_before = server.engine.num_started
    body = json.dumps(fields if "model" in fields else HELLO | fields).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"x-api-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head.encode() + body)
    wait_until(lambda: server.engine.num_started > num_before)
    return connection


def hold_tokens(server: LiveServer) -> threading.Semaphore:
    """Let the engine make no token until the test releases it."""
    may_be_made = threading.Semaphore(1)  # there is a pause before the first one's

    async def pause(_: float | None) -> None:
        while not may_be_made.acquire(blocking=False):
            await asyncio.sleep(0.005)

    server.engine._pause = pause
    return may_be_made


def test_each_token_arrives_before_the_next_is_made(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server()
    may_be_made = hold_tokens(server)
    may_be_made.release()
    num_arrived = 0
    for event in events(server, max_tokens=8):
        if '"content":"' in event and '"role"' not in event:
            num_arrived += 1
            may_be_made.release()
    assert num_arrived == 8


def test_the_frames_are_openais(echo_server: LiveServer) -> None:
    frames = list(events(echo_server, max_tokens=2, stream_options={"include_usage": True}))
    assert all(frame.startswith("data: ") for frame in frames)
    assert frames[-1] == "data: [DONE]"
    role, *content, finish, usage = [json.loads(f[6:]) for f in frames[:-1]]
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert 1 <= len(content) <= 2
    for chunk in (role, *content):
        assert chunk["choices"][0]["finish_reason"] is None
        assert chunk["choices"][0]["logprobs"] is None
        assert chunk["usage"] is None
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2


def test_keep_alive_comments_fill_a_long_wait(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"sse_keep_alive_s": 0.1})
    may_be_made = hold_tokens(server)
    num_pings, last = 0, ""
    for last in events(server, max_tokens=1):
        num_pings += last == ": ping"
        if num_pings == 2:
            may_be_made.release()
    assert num_pings >= 2
    assert last == "data: [DONE]"


def test_a_client_that_leaves_a_stream_stops_the_engine(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(engine={"echo": {"token_delay_s": 0.05}})
    stream = events(server)
    next(stream)
    next(stream)
    stream.close()
    wait_until(lambda: server.engine.num_aborted == 1)
    wait_until(lambda: is_idle(server))


def test_a_client_that_leaves_without_a_stream_stops_the_engine(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 1}})
    asked(server).close()
    wait_until(lambda: server.engine.num_aborted == 1)
    wait_until(lambda: is_idle(server))


def test_clients_that_leave_the_queue_free_their_place(
    start_server: Callable[..., LiveServer],
) -> None:
    # The events begin with the first token or ping.
    server = start_server(
        server={"sse_keep_alive_s": 0.1},
        engine={"max_num_seqs": 1, "echo": {"hang_after_tokens": 1}},
    )
    running = events(server)
    next(running)
    waiting = events(server)
    next(waiting)
    wait_until(lambda: server.engine.health().num_waiting == 1)
    waiting.close()
    wait_until(lambda: server.engine.health().num_waiting == 0)
    running.close()
    wait_until(lambda: server.engine.num_aborted == 2)
    wait_until(lambda: is_idle(server))


def test_a_client_that_never_reads_is_noticed_when_it_goes(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 3}})
    asked(server, stream=True).close()
    wait_until(lambda: server.engine.num_aborted == 1)
    wait_until(lambda: is_idle(server))


def test_a_client_that_leaves_is_one_quiet_line_in_the_log(
    start_server: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 1}})
    caplog.set_level("INFO")
    asked(server).close()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + b"content-length: 10\r\n\r\n{")
        wait_until(lambda: server.gate.num_in_flight == 1)
    wait_until(lambda: "".join(caplog.messages).count(" 499 ") == 2)
    assert not [r for r in caplog.records if r.levelname == "ERROR" or r.exc_info]
    wait_until(lambda: is_idle(server))


def test_an_engine_failure_ends_the_stream_with_an_error_and_no_done(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 2, "token_delay_s": 0.01}})
    frames = list(events(server))
    assert "[DONE]" not in frames[-1]
    error = json.loads(frames[-1].removeprefix("data: "))["error"]
    assert error["code"] == "engine_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert not any('"finish_reason":"' in frame for frame in frames)
    with pytest.raises(openai.APIError):
        list(server.client().chat.completions.create(**HELLO, stream=True))
    wait_until(lambda: is_idle(server))


def test_many_streams_at_once_are_all_whole(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"max_num_seqs": 4, "echo": {"token_delay_s": 0.001}})

    async def one(client: openai.AsyncOpenAI, number: int) -> None:
        messages = [{"role": "user", "content": f"number {number}"}]
        stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert f"number {number}\n" in text

    async def everyone() -> None:
        async with server.async_client() as client:
            await asyncio.gather(*(one(client, number) for number in range(24)))

    asyncio.run(everyone())
    assert server.engine.num_finished == 24
    wait_until(lambda: is_idle(server))


def test_an_engine_that_stalls_ends_its_requests(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"stall_timeout_s": 0.3, "echo": {"hang_after_tokens": 2}})
    *_, last = events(server)
    assert json.loads(last[6:])["error"]["code"] == "engine_stalled"
    whole = server.post(HELLO)
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "engine_stalled")
    wait_until(lambda: is_idle(server))
    assert server.engine.num_aborted == 2
