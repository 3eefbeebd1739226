"""Signals to a server, and a machine that stands still."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from scripts.injections.engines import last_error
from scripts.injections.stage import Injection, Stage, chat, eventually, seconds, status
from scripts.load.accounts.outcomes import error_code
from scripts.load.costs import descendants

__all__ = ["INJECTIONS"]

_LONG = {"min_tokens": 1500, "max_tokens": 1500}


async def _end_with(stage: Stage, drain_s: int, *, is_twice: bool) -> None:
    echo = {"token_delay_s": 0.02}
    engine = {"max_num_seqs": 32, "echo": echo}
    with stage.server(server={"drain_s": drain_s}, engine=engine) as server:
        await server.wait_ready()
        asked = [
            asyncio.create_task(stage.send(server, chat(stream=index % 3 > 0, **_LONG)))
            for index in range(24)
        ]
        await asyncio.sleep(1)
        children = descendants(server.pid)
        server.process.send_signal(signal.SIGTERM)
        if is_twice:
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        answers = await asyncio.gather(*asked)
        await eventually(lambda: server.process.poll() is not None, drain_s + 30)
        took = time.monotonic() - start - (0 if is_twice else drain_s)
        ends = Counter(
            f"{a.status} {error_code(a) if a.status == 503 else last_error(a)}" for a in answers
        )
        why = "a second SIGTERM" if is_twice else f"the end of drain_s ({drain_s} s)"
        stage.finding(
            f"{why}: 16 streams get an error event, 8 whole answers a 503; exit 0 in ≤ 5 s",
            f"{dict(ends)}; code {server.process.poll()} after {took:.1f} s",
            ends == {"200 server_shutting_down": 16, "503 server_shutting_down": 8}
            and server.process.poll() == 0
            and took <= 5,
        )
        gone = await eventually(lambda: not any(map(_lives, children)), 10)
        stage.finding("children are gone in ≤ 10 s", seconds(gone), gone is not None)


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def end_twice(stage: Stage) -> None:
    """C13: what runs at the end of `drain_s`, and at a second signal."""
    await _end_with(stage, 2, is_twice=False)
    await _end_with(stage, 600, is_twice=True)


async def end_while_starting(stage: Stage) -> None:
    """C14: at random moments of the start."""
    rng, slowest, ready, codes = random.Random(1), 0.0, 0, Counter[object]()
    for index in range(stage.few(12, 2)):
        engine = {"kind": ("echo", "cpu")[index % 2]}
        with stage.server(engine=engine) as server:
            await asyncio.sleep(rng.uniform(0.1, 8.0))
            was_ready = await status(server, "/ready") == 200
            code, took = server.stop()
            slowest, codes[code] = max(slowest, took), codes[code] + 1
            log = (stage.folder / f"server-{stage.num_servers}.log").read_text()
            ready += "ready after" in log and not was_ready
    stage.finding("exit in ≤ 10 s", f"≤ {slowest:.1f} s, codes {dict(codes)}", slowest <= 10)
    # Before the server handles signals, the default action ends it.
    stage.finding(
        "code 0, or the default action of the signal", dict(codes), set(codes) <= {0, -15}
    )
    stage.finding("none becomes ready afterwards", ready, not ready)


async def stand_still(stage: Stage) -> None:
    """C20: the process is suspended; the wall clock jumps."""
    pause_s = stage.few(10, 2)
    engine = {"echo": {"token_delay_s": 0.01}}
    with stage.server("--clock", engine=engine) as server:
        await server.wait_ready()
        asked = [
            asyncio.create_task(
                stage.send(server, chat(stream=True, min_tokens=400, max_tokens=400))
            )
            for _ in range(16)
        ]
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        server.process.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*asked)
        done = sum(answer.is_whole and last_error(answer) == "[DONE]" for answer in answers)
        stage.finding(
            f"16 streams go on after {pause_s} s of SIGSTOP, with a clock that jumps by an hour",
            f"{done} of 16",
            done == 16,
        )
        await stage.canary(server)


async def kill_parent(stage: Stage) -> None:
    """Part of C18: the children of a process that was killed, also those that compute without an end."""
    with stage.server() as server:
        await server.wait_ready()
        children = descendants(server.pid)
        os.kill(children[0], signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        gone = await eventually(lambda: not any(map(_lives, children)), 10)
        stage.finding(
            "kill -9: its children are gone in ≤ 10 s, one that hangs too",
            f"{len(children)} children, {seconds(gone)}",
            gone is not None,
        )
        server.restart()
        stage.finding("it starts again", f"{await server.wait_ready():.1f} s", holds=True)
        await stage.canary(server)


INJECTIONS = (
    Injection("C13", "a second signal, and the end of the drain", end_twice),
    Injection("C14", "SIGTERM during the start", end_while_starting),
    Injection("C18", "the process is killed (as by a lack of memory)", kill_parent),
    Injection("C20", "SIGSTOP and SIGCONT; the clock jumps", stand_still),
)
