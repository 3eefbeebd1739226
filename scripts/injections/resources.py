"""A machine that runs out of something, and settings that make no sense."""

import asyncio
import fcntl
import os
import resource
import socket
import subprocess
import time

from internvl_server.settings import Settings
from pydantic import ValidationError

from scripts.injections.stage import Injection, Stage, chat, eventually, status
from scripts.load.rounds import Round, closed_loop
from scripts.load.servers import ServerProcess
from scripts.load.streams import Timing, send

__all__ = ["INJECTIONS"]

_LIMITS = ("limits", "media", "server", "engine")


async def _load(server: ServerProcess, number: int) -> Round:
    async def one(body: bytes) -> Timing:
        return await send(server.address, body)

    body = chat("a b c d", stream=True, min_tokens=20, max_tokens=20)
    return await closed_loop(one, [body] * number, 4)


async def fill_disk(stage: Stage) -> None:
    """C15: the log cannot be written; the server writes no other files."""
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0)
    with full:
        server = ServerProcess(stage.command({}), stage.folder / "unused.log", stderr=full)
    with server:
        await server.wait_ready()
        answers = await stage.all(server, [chat(stream=True)] * 20)
        good = sum(answer.status == 200 for answer in answers)
        stage.finding("20 of 20 are answered", good, good == 20)
        await stage.canary(server)


async def run_out_of_files(stage: Stage) -> None:
    """C16: 256 file descriptors, and more connections than that."""
    with stage.server() as server:
        await server.wait_ready()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (256, 256))
        idle = [socket.socket() for _ in range(400)]
        for one in idle:
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", server.port))
        await asyncio.sleep(2)
        stage.finding("the process lives", server.process.poll(), server.process.poll() is None)
        for one in idle:
            one.close()
        start = time.monotonic()
        back = await eventually(lambda: _is_ready(server), 30)
        took = time.monotonic() - start
        stage.finding(
            "it serves again in ≤ 5 s after they left",
            f"{took:.1f} s",
            back is not None and took <= 5,
        )
        await stage.canary(server)


async def _is_ready(server: ServerProcess) -> bool:
    return await status(server, "/ready") == 200


async def block_the_log(stage: Stage) -> None:
    """C21: what reads the log has stopped reading."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)  # four pages, of which each takes a line or more
    command = stage.command({"engine": {"echo": {"token_delay_s": 0.005}}})
    with os.fdopen(writer, "wb") as end, os.fdopen(reader, "rb") as log:
        server = ServerProcess(command, stage.folder / "unused.log", stderr=end)
        with server:
            await server.wait_ready()
            os.read(log.fileno(), 65536)
            before = await _load(server, 30)
            blocked = await asyncio.wait_for(_load(server, stage.few(400, 80)), 240)
            failed = f"{blocked.num_failed} of {blocked.num_requests} failed"
            stage.finding("all requests are answered", failed, not blocked.num_failed)
            medians = before.total_p50_ms or 0, blocked.total_p50_ms or 0
            stage.finding(
                "the median of requests ≤ 1.05 × (+ 10 ms)",
                f"{medians[0]:.0f} → {medians[1]:.0f} ms",
                medians[1] <= 1.05 * medians[0] + 10,
            )
            os.read(log.fileno(), 65536)
            await stage.canary(server)
            await asyncio.sleep(0.3)
            os.set_blocking(log.fileno(), False)
            rest = (log.read() or b"").decode().splitlines()
            lost = next((line for line in rest if "events were lost" in line), "")
            stage.finding("the log says how much was lost", lost[-50:], lost)


async def set_nonsense(stage: Stage) -> None:
    """C22: every number among the settings, negative, and beyond any use."""
    accepted, tried = [], 0
    for section in _LIMITS:
        for name, info in Settings.model_fields[section].annotation.model_fields.items():
            if not isinstance(info.default, int | float) or isinstance(info.default, bool):
                continue
            for value in (-1, float("nan"), 10**30):
                tried += 1
                try:
                    Settings.model_validate({section: {name: value}})
                    accepted.append(f"{section}.{name}={value:g}")
                except ValidationError:
                    pass
    stage.finding(
        f"{tried} settings of -1, NaN and 10^30 do not start",
        f"{len(accepted)} accepted: {', '.join(accepted[:6])}",
        not accepted,
    )
    command = stage.command({"limits": {"max_in_flight": 0}})
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )
    stage.finding(
        "the process names the setting, and ends with code 2",
        f"code {done.returncode}: {done.stderr.strip()[-60:]}",
        done.returncode == 2 and "limits.max_in_flight" in done.stderr,
    )


INJECTIONS = (
    Injection("C15", "the log's disk is full", fill_disk),
    Injection("C16", "256 file descriptors, 400 connections", run_out_of_files),
    Injection("C21", "nobody reads the log", block_the_log),
    Injection("C22", "settings that make no sense", set_nonsense),
)
