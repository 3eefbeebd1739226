"""Faults on the way of pictures: hosts, names, decoders, memory."""

import asyncio
import base64
import os
import random
import signal
import time
from collections import Counter

from scripts.injections.clients import large_png
from scripts.injections.hosts import Host
from scripts.injections.program import HOST
from scripts.injections.stage import Injection, Stage, chat, eventually, gauges, seconds
from scripts.load.accounts.exchange import Answer
from scripts.load.accounts.outcomes import error_code
from scripts.load.bodies import fresh_picture
from scripts.load.costs import descendants
from scripts.load.figures import percentile
from scripts.load.rounds import Round, closed_loop
from scripts.load.servers import ServerProcess
from scripts.load.streams import Timing, send

__all__ = ["INJECTIONS"]

_FETCH_S = 4
_MOST_FETCHES = 16


def _media(*hosts: Host) -> dict[str, object]:
    return {
        "allowed_private_networks": [f"{HOST}/32"],
        "allowed_ports": [80, 443, *(host.port for host in hosts)],
        "fetch_timeout_s": _FETCH_S,
        "max_fetches": _MOST_FETCHES,
    }


async def _text_load(server: ServerProcess, number: int) -> Round:
    async def one(body: bytes) -> Timing:
        return await send(server.address, body)

    body = chat("a b c d", stream=True, min_tokens=20, max_tokens=20)
    return await closed_loop(one, [body] * number, 4)


def _codes(answers: list[Answer]) -> Counter[str]:
    return Counter(f"{answer.status} {error_code(answer) or ''}".strip() for answer in answers)


async def misbehave(stage: Stage) -> None:
    """C4: five manners, with text requests beside."""
    number = stage.few(20, 4)
    async with Host("hang") as host:
        with stage.server(media=_media(host), engine={"echo": {"token_delay_s": 0.01}}) as server:
            await server.wait_ready()
            await _text_load(server, 8)
            before = await _text_load(server, stage.few(200, 20))
            for manner in ("hang", "reset", "drip", "endless", "5xx"):
                host.manner = manner
                urls = [f"http://{HOST}:{host.port}/{manner}-{index}" for index in range(number)]
                asked = asyncio.create_task(stage.all(server, [chat("a", url) for url in urls]))
                beside = await _text_load(server, stage.few(100, 20))
                answers = await asked
                slowest = max(answer.total_s for answer in answers)
                medians = before.total_p50_ms or 0, beside.total_p50_ms or 0
                stage.finding(
                    f"{manner}: 400 or 429 in ≤ {2 * _FETCH_S + 1} s, waiting for a slot included; "
                    "median of text requests ≤ 1.2 × (+ 50 ms)",
                    f"{dict(_codes(answers))} in {slowest:.1f} s; {medians[0]:.0f} → {medians[1]:.0f} ms",
                    {answer.status for answer in answers} <= {400, 429}
                    and slowest <= 2 * _FETCH_S + 1
                    and medians[1] <= 1.2 * medians[0] + 50,
                )
            stage.finding(
                f"never more than {_MOST_FETCHES} fetches",
                host.most_open,
                host.most_open <= _MOST_FETCHES,
            )
            await stage.canary(server)


async def hang_all_fetches(stage: Stage) -> None:
    """C5: more hung hosts than fetches at a time."""
    picture = base64.b64decode(fresh_picture(448, 448, 1).partition(",")[2])
    async with Host("hang") as host:
        host.body = picture
        with stage.server(media=_media(host), engine={"echo": {"token_delay_s": 0.01}}) as server:
            await server.wait_ready()
            url = f"http://{HOST}:{host.port}"
            bodies = [chat("a", f"{url}/{index}") for index in range(64)]
            asked = asyncio.create_task(stage.all(server, bodies))
            text = await _text_load(server, 20)
            answers = await asked
            host.manner = "picture"
            slowest = max(answer.total_s for answer in answers)
            stage.finding(
                "64 requests with a picture: 400 or 429 within 3 × the limit of a fetch (+ 1 s)",
                f"{dict(_codes(answers))} in {slowest:.1f} s",
                {answer.status for answer in answers} <= {400, 429} and slowest <= 3 * _FETCH_S + 1,
            )
            stage.finding(
                "all text requests beside are answered",
                f"{text.num_failed} failed",
                not text.num_failed,
            )
            again = await stage.send(server, chat("a", f"{url}/again", max_tokens=1))
            stage.finding(
                "a picture is answered in ≤ 1 s once the host is back",
                f"{again.status} in {again.total_s:.2f} s",
                again.status == 200 and again.total_s <= 1,
            )
            await stage.canary(server)


async def kill_decoders(stage: Stage) -> None:
    """C6: with a picture in each of them."""
    number, rng = stage.few(20, 4), random.Random(1)
    big = large_png(5000)
    with stage.server(media={"num_workers": 2, "cache_bytes": 0}) as server:
        await server.wait_ready()
        pid, statuses, waits = server.pid, Counter[str](), []
        for index in range(number):
            url = "data:image/png;base64," + base64.b64encode(big + b"%d" % index).decode()
            asked = asyncio.create_task(stage.send(server, chat("a", url)))
            await asyncio.sleep(0.35)
            victims = descendants(pid)
            for victim in victims:
                os.kill(victim, rng.choice([signal.SIGSEGV, signal.SIGKILL]))
            statuses += _codes([await asked])
            start = time.monotonic()
            good = await stage.send(server, chat("a", fresh_picture(448, 448, index)))
            waits.append(time.monotonic() - start)
            statuses += Counter({"good picture afterwards failed": int(good.status != 200)})
        stage.finding(
            f"{number} × all decoders are killed: 400, 503 or the answer; the next picture is answered",
            dict(+statuses),
            set(+statuses)
            <= {"400 invalid_image", "503 engine_unavailable", "503 decoder_failed", "200"}
            and not any(status.startswith("5") and "503" not in status for status in statuses),
        )
        stage.finding(
            "a new decoder answers in ≤ 1 s (median)",
            f"median {percentile(waits, 0.5):.2f} s, most {max(waits):.2f} s",
            (percentile(waits, 0.5) or 9) <= 1,
        )
        stage.finding(
            "the server is the same process", server.process.poll(), server.process.poll() is None
        )
        back = await eventually(lambda: len(descendants(pid)) >= 1, 5)
        stage.finding("decoders are there", seconds(back), back is not None)
        await stage.canary(server)


async def many_pixels(stage: Stage) -> None:
    """C17: as many of the largest pictures at a time as requests may be."""
    number = stage.few(16, 4)
    big = large_png(7000)
    with stage.server(media={"decode_timeout_s": 30, "max_image_bytes": 64 << 20},
                      limits={"max_body_bytes": 96 << 20}) as server:  # fmt: skip
        await server.wait_ready()
        idle = (await gauges(server))["mib"]
        bodies = [
            chat("a", "data:image/png;base64," + base64.b64encode(big + b"%d" % index).decode())
            for index in range(number)
        ]
        asked = asyncio.create_task(stage.all(server, bodies))
        most = idle
        while not asked.done():
            most = max(most, (await gauges(server))["mib"])
            await asyncio.sleep(0.1)
        answers = await asked
        stage.finding(
            f"{number} pictures of 49 megapixels at a time: 200 or 429",
            dict(_codes(answers)),
            {answer.status for answer in answers} <= {200, 429},
        )
        stage.finding("all processes together take ≤ 2 GiB", f"{idle} → {most} MiB", most <= 2048)
        await stage.canary(server)


async def break_names(stage: Stage) -> None:
    """C19: the name service."""
    async with Host("picture") as host:
        host.body = base64.b64decode(fresh_picture(448, 448, 1).partition(",")[2])
        with stage.server(media=_media(host)) as server:
            await server.wait_ready()
            for name in ("failing", "slow", "many"):
                answer = await stage.send(server, chat("a", f"http://{name}.fault:{host.port}/x"))
                # A thousand answers are read, and each that is used is judged as if it were the only one.
                statuses = {200, 400} if name == "many" else {400}
                stage.finding(
                    f"{name}: {' or '.join(map(str, sorted(statuses)))} in ≤ 3 s",
                    f"{dict(_codes([answer]))} in {answer.total_s:.1f} s",
                    answer.status in statuses and answer.total_s <= 3,
                )
            good = await stage.send(server, chat("a", f"http://good.fault:{host.port}/x"))
            stage.finding("a good name is answered", good.status, good.status == 200)
            await stage.canary(server)


INJECTIONS = (
    Injection("C4", "media hosts hang, reset, drip, never end, fail", misbehave),
    Injection("C5", "64 media hosts hang at once", hang_all_fetches),
    Injection("C6", "decoders are killed with a picture in them", kill_decoders),
    Injection("C17", "sixteen of the largest pictures at once", many_pixels),
    Injection("C19", "names do not resolve, late, or to too much", break_names),
)
