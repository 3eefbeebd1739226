"""Replicas that are killed and restarted behind a balancer, under load."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripts.injections.replicas import Balanced, balanced, find
from scripts.injections.stage import Injection, Stage, chat, eventually, seconds, status
from scripts.load.accounts.exchange import Answer, exchange, request_bytes
from scripts.load.accounts.outcomes import Outcome, judge

__all__ = ["INJECTIONS"]

# A stream takes about half a second, a long one eight.
_ECHO = {"token_delay_s": 0.02}
_SHORT = {"min_tokens": 20, "max_tokens": 20}
_LONG = {"min_tokens": 400, "max_tokens": 400}
# Most requests are of one conversation, which a balancer keeps on one server as long as that has room.
_TEXTS = ("one two three", "one two three", "two three four", "one two three", "three four five")
_NOTICE_S = 7.0  # until a balancer sends requests to a server that has returned


@dataclass
class Load:
    """Clients that never repeat a request. Each sends its next one when the last has ended.

    `failures` are the moments of beginning of requests that did not end as they should, and why.
    """

    place: Balanced
    stage: Stage
    num_good: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    is_over: bool = False

    async def client(self, number: int) -> None:
        fields = _LONG if number < 2 else _SHORT
        while not self.is_over:
            body = chat(_TEXTS[number % len(_TEXTS)], stream=number % 4 != 3, **fields)
            began = time.monotonic()
            self.stage.ledger.open()
            answer = await exchange(
                self.place.address, request_bytes("/v1/chat/completions", body), timeout_s=60
            )
            self.stage.ledger.close(answer)
            self._enter(began, answer)

    def _enter(self, began: float, answer: Answer) -> None:
        outcome, note = judge(answer)
        if outcome is Outcome.COMPLETED:
            self.num_good += 1
        else:
            self.failures.append((began, f"{outcome} {answer.status} {note}".strip()))

    @contextlib.asynccontextmanager
    async def running(self, num_clients: int) -> AsyncIterator[None]:
        """The load runs inside."""
        clients = [asyncio.create_task(self.client(number)) for number in range(num_clients)]
        try:
            await asyncio.sleep(1)
            yield
        finally:
            self.is_over = True
            await asyncio.gather(*clients)


async def _start(place: Balanced) -> None:
    await asyncio.gather(*(replica.wait_ready() for replica in place.replicas))
    await eventually(lambda: _answers(place), 15)


async def _answers(place: Balanced) -> bool:
    answer = await exchange(place.address, request_bytes("/ready", method="GET"))
    return answer.status == 200


def _is_missing(stage: Stage, name: str) -> bool:
    if find(name) is None:
        stage.finding(f"{name} is installed (NOT RUN)", "no", holds=True)
    return find(name) is None


async def kill(name: str, stage: Stage) -> None:
    """C10, C11: `kill -9` of one of two replicas."""
    if _is_missing(stage, name):
        return
    with balanced(stage, name, engine={"max_num_seqs": 32, "echo": _ECHO}) as place:
        await _start(place)
        load = Load(place, stage)
        async with load.running(16):
            await asyncio.sleep(stage.few(20, 2))
            victim = place.replicas[0]
            os.kill(victim.pid, signal.SIGSTOP)
            in_flight = _num_connections(victim.port)
            os.kill(victim.pid, signal.SIGKILL)
            killed = time.monotonic()
            victim.process.wait()
            await asyncio.sleep(stage.few(20, 4))
            victim.restart()
            await victim.wait_ready()
            await asyncio.sleep(stage.few(20, 4))
        stage.expect_cut(len(load.failures))
        late = [why for began, why in load.failures if began >= killed]
        stage.finding(
            "lost: only what was in flight on the killed replica (and ≤ 2 that came while it was counted)",
            f"{len(load.failures)} of {load.num_good + len(load.failures)}; {in_flight} connections",
            len(load.failures) <= in_flight + 2,
        )
        stage.finding("0 lost of those begun afterwards", f"{len(late)} {late[:1]}", not late)


def _num_connections(port: int) -> int:
    """Established connections to a port, each of which has one request."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


async def outlast_silence(stage: Stage) -> None:
    """The second half of C11: a first token after 90 s, behind nginx."""
    if _is_missing(stage, "nginx"):
        return
    delay_s = stage.few(90, 2)
    echo = {"first_token_delay_s": delay_s}
    settings = {"sse_keep_alive_s": 15 if delay_s > 15 else 1}
    with balanced(stage, "nginx", engine={"echo": echo}, server=settings) as place:
        await _start(place)
        answer = await stage.send(place.address, chat(stream=True, max_tokens=4))
        outcome, note = judge(answer)
        stage.finding(
            f"a stream whose first token takes {delay_s} s arrives",
            f"{outcome} {note} in {answer.total_s:.0f} s",
            outcome is Outcome.COMPLETED,
        )


async def restart(name: str, stage: Stage) -> None:
    """C12: SIGTERM to one after the other."""
    if _is_missing(stage, name):
        return
    number = stage.few(10, 2)
    drains, codes = [], Counter[object]()
    with balanced(stage, name, engine={"max_num_seqs": 32, "echo": _ECHO}) as place:
        await _start(place)
        load = Load(place, stage)
        async with load.running(stage.few(24, 8)):
            for index in range(number):
                replica = place.replicas[index % 2]
                code, took = await asyncio.to_thread(replica.stop)
                drains.append(took)
                codes[code] += 1
                replica.restart()
                await replica.wait_ready()
                await asyncio.sleep(_NOTICE_S)
        total = load.num_good + len(load.failures)
        stage.finding(
            f"{number} restarts behind {name}: 0 of ≥ {stage.few(2000, 20)} requests lost, cut or refused",
            f"{len(load.failures)} of {total} {load.failures[:1]}",
            not load.failures and total >= stage.few(2000, 20),
        )
        stage.finding(
            "exit code 0 after what ran", f"{dict(codes)}, ≤ {max(drains):.1f} s", set(codes) == {0}
        )


async def leave_slowly(stage: Stage) -> None:
    """The readiness of C12: `pre_drain_s`, for balancers that do not repeat refused connections."""
    pre_drain_s = stage.few(10, 2)
    with stage.server(server={"pre_drain_s": pre_drain_s}) as server:
        await server.wait_ready()
        server.process.terminate()
        start = time.monotonic()
        unready = await eventually(partial(_is_unready, server), 5)
        served = 0
        while time.monotonic() - start < pre_drain_s - 0.3:
            answer = await stage.send(server, chat(max_tokens=1))
            served += answer.status == 200
            await asyncio.sleep(0.1)
        await eventually(lambda: server.process.poll() is not None, 20)
        stage.finding(
            "/ready is 503 in ≤ 1 s", seconds(unready), unready is not None and unready <= 1
        )
        refused = stage.ledger.num_sent - served
        stage.finding(
            f"requests are served for {pre_drain_s} s", f"{served}, {refused} not", not refused
        )
        stage.finding("exit code 0", server.process.poll(), server.process.poll() == 0)


async def _is_unready(server: object) -> bool:
    return await status(server, "/ready") == 503


async def _restart_all(stage: Stage) -> None:
    await restart("haproxy", stage)
    await restart("nginx", stage)
    stage_ = Stage(stage.folder, stage.is_short)
    await leave_slowly(stage_)
    stage.findings += stage_.findings


async def _kill_behind_nginx(stage: Stage) -> None:
    await kill("nginx", stage)
    await outlast_silence(stage)


INJECTIONS = (
    Injection("C10", "kill -9 of a replica behind HAProxy", partial(kill, "haproxy")),
    Injection("C11", "kill -9 of a replica behind nginx; a late first token", _kill_behind_nginx),
    Injection("C12", "rolling restarts under load behind HAProxy and nginx", _restart_all),
)
