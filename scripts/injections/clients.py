"""Clients that leave, and clients that do not read."""

import asyncio
import io
import random
import re
import socket
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import numpy as np
from PIL import Image

from scripts.injections.hosts import Host
from scripts.injections.program import HOST
from scripts.injections.stage import Injection, Stage, chat, eventually, gauges, is_idle, seconds
from scripts.load.accounts.exchange import Leave, request_bytes
from scripts.load.accounts.ledger import access_lines
from scripts.load.rounds import Round, closed_loop
from scripts.load.servers import ServerProcess
from scripts.load.streams import Timing, send

__all__ = ["INJECTIONS", "large_png"]

_AT_ONCE = 20
_FREE_S = 2.0
LONG = {"min_tokens": 300, "max_tokens": 300}
_NUM_STUCK = 50
_UNREAD = chat(stream=True, min_tokens=1800, max_tokens=1800)


def large_png(side: int) -> bytes:
    """A picture that is small as a file, and takes long to decode: half a second with 5,000 pixels a side."""
    cells = np.random.default_rng(0).integers(0, 255, (side // 50, side // 50, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


async def leave_at_each_stage(stage: Stage) -> None:
    """C1: each stage of a request, streams and whole answers."""
    number = stage.few(100, 4)
    async with Host("hang") as hung, Host("picture") as slow:
        slow.body = large_png(6000)
        media = {
            "allowed_private_networks": [f"{HOST}/32"],
            "allowed_ports": [80, 443, hung.port, slow.port],
            "cache_bytes": 0,
            "num_workers": 1,
        }
        echo = {"token_delay_s": 0.01, "first_token_delay_s": 0.5}
        limits = {"max_tiles_in_flight": 4096}
        with (
            stage.server(
                media=media, limits=limits, engine={"echo": echo, "max_num_seqs": 64}
            ) as wide,
            stage.server(engine={"echo": echo, "max_num_seqs": 1}) as narrow,
        ):
            await asyncio.gather(wide.wait_ready(), narrow.wait_ready())
            before = await gauges(wide)
            whens = {
                "headers": ("", Leave(after_sent=40)),
                "mid-body": ("", Leave(after_sent=200)),
                "DNS": (f"http://slow.fault:{hung.port}/x", Leave(after_s=0.3)),
                "fetch": (f"http://{HOST}:{hung.port}/x", Leave(after_s=0.3)),
                "decoding": (f"http://{HOST}:{slow.port}/x", Leave(after_s=0.5)),
                "prefill": ("", Leave(after_s=0.3)),
                "mid-stream": ("", Leave(after_received=1500)),
                "last event": ("", Leave(after_received=2_300)),
            }
            for name, (url, leave) in whens.items():
                await _leave(stage, wide, name, url, leave, number)
            await _leave_the_queue(stage, narrow, number)
            await eventually(lambda: _is_as_before(wide, before), 20)
            after = await gauges(wide)
            stage.finding(
                "nothing is left of them: tasks, sockets and processes as before",
                f"tasks {before['tasks']} → {after['tasks']}, fds {before['fds']} → {after['fds']}, "
                f"children {before['children']} → {after['children']}",
                after["tasks"] <= before["tasks"] and after["fds"] <= before["fds"] + 2,
            )
            _compare_logs(stage)
            await stage.canary(narrow)


async def _is_as_before(server: ServerProcess, before: dict[str, int]) -> bool:
    now = await gauges(server)
    return now["tasks"] <= before["tasks"] and now["fds"] <= before["fds"] + 2


async def _leave(
    stage: Stage, server: ServerProcess, name: str, url: str, leave: Leave, number: int
) -> None:
    urls = (url,) if url else ()
    slowest: float | None = 0.0
    for is_stream in (True, False):
        fields = {"max_tokens": 8} if name == "last event" else LONG
        if not is_stream and leave.after_received is not None:
            # A whole answer comes at once: the client leaves when its first byte is there.
            leave, fields = Leave(after_received=1), {"max_tokens": 8}
        for start in range(0, number, _AT_ONCE):
            bodies = [chat("one two three", *urls, stream=is_stream, **fields)]
            await stage.all(server, bodies * min(_AT_ONCE, number - start), leave)
            took = await eventually(lambda: is_idle(server), 30)
            slowest = None if took is None or slowest is None else max(slowest, took)
    # A decoder finishes what it has begun, without anything else being held.
    stage.finding(
        f"{2 * number} leave at {name}: engine and places free in ≤ {_FREE_S:g} s",
        seconds(slowest),
        slowest is not None and slowest <= _FREE_S,
    )


async def _leave_the_queue(stage: Stage, server: ServerProcess, number: int) -> None:
    first = asyncio.create_task(
        stage.send(server, chat(stream=True, min_tokens=1500, max_tokens=1500))
    )
    await eventually(lambda: _runs(server), 10)
    for is_stream in (True, False):
        for start in range(0, number, _AT_ONCE):
            bodies = [chat(stream=is_stream)] * min(_AT_ONCE, number - start)
            await stage.all(server, bodies, Leave(after_s=0.3))
    took = await eventually(lambda: _has_no_queue(server), 30)
    stage.finding(
        f"{2 * number} leave the queue: it is empty in ≤ {_FREE_S:g} s, and the one that runs goes on",
        f"{seconds(took)}, {'running' if not first.done() else 'ended'}",
        took is not None and took <= _FREE_S and not first.done(),
    )
    await first


async def _runs(server: ServerProcess) -> bool:
    return (await gauges(server))["running"] == 1


async def _has_no_queue(server: ServerProcess) -> bool:
    return (await gauges(server))["waiting"] == 0


def _compare_logs(stage: Stage) -> None:
    """Every request whose head arrived has one line."""
    text = "".join(path.read_text() for path in stage.folder.glob("server-*.log"))
    lines = access_lines(text.splitlines())
    twice = [key for key, count in Counter(key for key, _ in lines).items() if count > 1]
    errors = re.findall(r" ERROR .*", text)
    stage.finding(
        "each request is logged once, and none as an ERROR",
        f"{len(lines)} lines, {len(twice)} twice, {len(errors)} errors {errors[:1]}",
        not twice and not errors and lines,
    )


async def leave_and_go_on(stage: Stage) -> None:
    """C2: a thousand in a row, then the usual load."""
    number = stage.few(1000, 60)
    with stage.server(engine={"echo": {"token_delay_s": 0.01}}) as server:
        await server.wait_ready()
        bodies = [chat("a b c d e f", stream=True, min_tokens=100, max_tokens=100)] * 32

        async def one(body: bytes) -> Timing:
            return await send(server.address, body)

        await closed_loop(one, bodies, 16)
        before, held = await closed_loop(one, bodies, 16), await gauges(server)
        rng = random.Random(1)
        for _ in range(number // _AT_ONCE):
            leave = Leave(after_s=rng.uniform(0.0, 0.2))
            await stage.all(server, [chat(stream=True, **LONG)] * _AT_ONCE, leave)
        idle = await eventually(lambda: is_idle(server), 10)
        after, now = await closed_loop(one, bodies, 16), await gauges(server)
        share = after.requests_per_s / before.requests_per_s
        stage.finding("afterwards ≥ 98 % of the answers per second", f"{share:.1%}", share >= 0.98)
        grown = now["mib"] - held["mib"]
        stage.finding("memory grows by ≤ 32 MiB", f"{grown} MiB", grown <= 32)
        left = {name: now[name] - held[name] for name in ("tasks", "fds", "children")}
        stage.finding(
            "no task, file or process is left",
            f"{left}, idle in {seconds(idle)}",
            max(left.values()) <= 0 and idle is not None,
        )
        await stage.canary(server)


async def stop_reading(stage: Stage) -> None:
    """C3: fifty streams that nobody reads."""
    timeout_s = stage.few(30, 2)
    settings = {"send_timeout_s": timeout_s, "sse_keep_alive_s": 1}
    engine = {"max_num_seqs": 64, "echo": {"token_delay_s": 0.01}}
    with stage.server(server=settings, engine=engine) as server:
        await server.wait_ready()
        bodies = [chat(stream=True, min_tokens=400, max_tokens=400)] * stage.few(60, 8)

        async def one(body: bytes) -> Timing:
            return await send(server.address, body)

        reading = [asyncio.create_task(one(_UNREAD)) for _ in range(_NUM_STUCK)]
        before, _ = await _highest_memory(server, closed_loop(one, bodies, 4))
        await asyncio.gather(*reading)
        held = await gauges(server)
        stuck = [await _never_reads(server) for _ in range(_NUM_STUCK)]
        beside, most = await _highest_memory(server, closed_loop(one, bodies, 4))
        grown = max(0, most - held["mib"])
        took = await eventually(lambda: is_idle(server), timeout_s + 60)
        closed = await eventually(lambda: _has_files(server, held["fds"]), 15)
        stage.finding(
            "others' p99 between tokens ≤ 1.2 × (+ 1 ms)",
            f"{before.gap_p99_ms:.1f} → {beside.gap_p99_ms:.1f} ms",
            (beside.gap_p99_ms or 0) <= 1.2 * (before.gap_p99_ms or 0) + 1,
        )
        stage.finding(
            "≤ 256 KiB are kept of each",
            f"{grown * 1024 / _NUM_STUCK:.0f} KiB",
            grown * 1024 / _NUM_STUCK <= 256,
        )
        stage.finding(
            f"all are cut after {timeout_s} s, and their sockets closed",
            f"requests ended {seconds(took)}, sockets {seconds(closed)} after the load",
            took is not None and closed is not None,
        )
        for client in stuck:
            client.close()
        errors = (stage.folder / "server-1.log").read_text().count(" ERROR ")
        stage.finding("no line of level ERROR", errors, not errors)
        await stage.canary(server)


async def _highest_memory(
    server: ServerProcess, load: Coroutine[Any, Any, Round]
) -> tuple[Round, int]:
    """A load, and the most MiB that the server held during it. Looking disturbs the load a little."""
    loading, most = asyncio.create_task(load), 0
    while not loading.done():
        most = max(most, (await gauges(server))["mib"])
        await asyncio.wait([loading], timeout=0.5)
    return await loading, most


async def _has_files(server: ServerProcess, number: int) -> bool:
    return (await gauges(server))["fds"] <= number + 1


async def _never_reads(server: ServerProcess) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", server.port))
    client.sendall(request_bytes("/v1/chat/completions", _UNREAD))
    return client


INJECTIONS = (
    Injection("C1", "clients leave at nine stages, streams and whole answers", leave_at_each_stage),
    Injection("C2", "a thousand clients leave in a row", leave_and_go_on),
    Injection("C3", "fifty clients read nothing", stop_reading),
)
