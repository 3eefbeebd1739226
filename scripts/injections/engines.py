"""Engines that fail, hang and die."""

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

from scripts.injections.stage import Injection, Stage, chat, eventually, seconds, status
from scripts.load.accounts.exchange import Answer
from scripts.load.accounts.outcomes import error_code
from scripts.load.servers import ServerProcess

__all__ = ["INJECTIONS", "last_error"]

_LONG = {"min_tokens": 1000, "max_tokens": 1000}


def last_error(answer: Answer) -> str:
    """The code of the error event that ends a stream, or how it ended otherwise."""
    last = bytes(answer.body).decode().strip().rpartition("\n")[2].removeprefix("data: ")
    ended = Answer(answer.path, body=bytearray(last.encode()))
    return error_code(ended) or ("[DONE]" if last == "[DONE]" else answer.problem or last[:40])


async def fail(stage: Stage) -> None:
    """C7: before the first token, and in the middle; short requests finish beside."""
    with stage.server(engine={"echo": {"fail_after_tokens": 0}}) as server:
        await server.wait_ready()
        whole, stream = await stage.all(server, [chat(), chat(stream=True)])
        stage.finding(
            "before the first token: 503, or an error event and no [DONE]",
            f"{whole.status} {error_code(whole)}; {stream.status}, {last_error(stream)}",
            (whole.status, error_code(whole), last_error(stream))
            == (503, "engine_error", "engine_error"),
        )
    echo = {"fail_after_tokens": 20, "token_delay_s": 0.005}
    with stage.server(engine={"echo": echo}) as server:
        await server.wait_ready()
        failing = [chat(stream=True, **_LONG)] * 8 + [chat(**_LONG)] * 4
        answers = await stage.all(server, failing + [chat(stream=True, max_tokens=8)] * 4)
        ends = Counter(last_error(answer) for answer in answers)
        stage.finding(
            "mid-stream: each of the batch finishes, or ends with the error",
            dict(ends),
            ends == {"engine_error": 12, "[DONE]": 4},
        )
        answer = await stage.send(server, chat(max_tokens=1))
        stage.finding("short requests are answered afterwards", answer.status, answer.status == 200)


async def hang(stage: Stage) -> None:
    """C8: TurboMind's loop stands still, on the stand-in; or the echo engine hangs, where LMDeploy is not."""
    if stage.is_short or not _has_lmdeploy():
        await _hang_echo(stage)
        return
    folder = stage.checkpoint
    command = [sys.executable, "-m", "tests.lmdeploy.hanging_server", str(folder), "120", "{port}"]
    with ServerProcess(command, stage.folder / "hanging.log") as server:
        await server.wait_ready()
        start = time.monotonic()
        asked = asyncio.create_task(stage.send(server, chat(stream=True, max_tokens=4)))
        unready = await eventually(lambda: _is(server, "/ready", 503), 60)
        answer = await asked
        took = time.monotonic() - start
        stage.finding(
            "the stream ends with an error at 30 ± 1 s",
            f"{last_error(answer)} after {answer.total_s:.1f} s",
            abs(answer.total_s - 30) <= 1 and last_error(answer) == "engine_stalled",
        )
        stage.finding(
            "/ready is 503 in ≤ 35 s", seconds(unready), unready is not None and unready <= 35
        )
        alive = await status(server, "/health")
        stage.finding("/health is 200 until 90 s", f"{alive} at {took:.0f} s", alive == 200)
        await eventually(lambda: _is(server, "/health", 503), 100)
        dead = time.monotonic() - start
        stage.finding("/health is 503 at 90 s", f"{dead:.1f} s", abs(dead - 90) <= 2)
        await eventually(lambda: server.process.poll() is not None, 60)
        ended = time.monotonic() - start
        stage.finding(
            "the process ends at 120 s with code 3, to be started again",
            f"code {server.process.poll()} at {ended:.1f} s",
            server.process.poll() == 3,
        )


async def _hang_echo(stage: Stage) -> None:
    timeout_s = stage.few(30, 1)
    engine = {"stall_timeout_s": timeout_s, "echo": {"hang_after_tokens": 2}}
    with stage.server(engine=engine) as server:
        await server.wait_ready()
        answers = await stage.all(server, [chat(stream=True, max_tokens=9), chat(max_tokens=9)])
        ends = [last_error(answers[0]), f"{answers[1].status} {error_code(answers[1])}"]
        slowest = max(answer.total_s for answer in answers)
        stage.finding(
            f"requests end with an error at {timeout_s} ± 1 s (echo engine: LMDeploy is not installed)",
            f"{ends} after {slowest:.1f} s",
            ends == ["engine_stalled", "503 engine_stalled"] and slowest <= timeout_s + 1,
        )


def _has_lmdeploy() -> bool:
    return any(Path(folder, "lmdeploy").is_dir() for folder in sys.path if folder)


async def _is(server: ServerProcess, path: str, expected: int) -> bool:
    return await status(server, path) == expected


async def die(stage: Stage) -> None:
    """C9: the engine is in the server's process, and dies with it."""
    with stage.server(engine={"echo": {"token_delay_s": 0.02}}) as server:
        await server.wait_ready()
        asked = [
            asyncio.create_task(stage.send(server, chat(stream=True, **_LONG))) for _ in range(16)
        ]
        await asyncio.sleep(1)
        os.kill(server.pid, 9)
        start = time.monotonic()
        answers = await asyncio.gather(*asked)
        took = time.monotonic() - start
        whole = sum(answer.is_whole for answer in answers)
        stage.finding(
            "16 of 16 streams are cut visibly in ≤ 2 s",
            f"{16 - whole} of 16 in {took:.2f} s",
            not whole and took <= 2,
        )
        stage.expect_cut(16)
        server.process.wait()
        stage.finding("/ready is gone at once", await status(server, "/ready"), holds=True)
        server.restart()
        stage.finding(
            "it serves again after the start of the model",
            f"{await server.wait_ready():.1f} s",
            holds=True,
        )
        await stage.canary(server)


INJECTIONS = (
    Injection("C7", "the engine raises", fail),
    Injection("C8", "the engine hangs", hang),
    Injection("C9", "the engine's process is killed with 16 streams", die),
)
