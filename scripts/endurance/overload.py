"""Send a server more than it can bear, and see what it still serves.

    scripts/overload
    scripts/overload --engine cpu
    scripts/overload --only memory --burst 64

`load` measures the capacity of an engine with a fixed pace, floods it with two and ten times as much, and
looks at what is served, at refusals, and at the time to recover. `fairness` compares the latency of one API
key's requests alone and beside another key's flood. `memory` sends a burst of requests with eight pictures of
three megabytes each, fetched and inline, and looks at the memory meanwhile and afterwards; caches, which
come on top by their settings, are small in it. Prints a table, and exits with 1 when a criterion fails. The
echo engine has the pace that is set here; the CPU engine, with the demo model, its own.
"""

import argparse
import asyncio
import base64
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from scripts.endurance.criteria import Criterion, at_least, at_most, report
from scripts.endurance.sending import Sender, Sent, latency, refused, served
from scripts.endurance.starting import Folder, folder, watched_server
from scripts.load.accounts.exchange import request_bytes
from scripts.load.accounts.ledger import Ledger
from scripts.load.bodies import picture_file
from scripts.load.costs import held_bytes
from scripts.load.figures import percentile, ratio
from scripts.load.media_host import MediaHost
from scripts.load.servers import ServerProcess

_MIB = 1 << 20
_SLOTS, _TOKEN_S = 8, 0.05
# Answers are so long that the engine is the limit: ten times as many requests must not take all cores.
_ANSWER_TOKENS = {"echo": 8, "cpu": 128}
_MAX_REFUSAL_S, _MAX_REFUSAL_BYTES = 0.1, 1024
_SETTLE_S = 20.0
_PICTURES, _PICTURE_BYTES = 8, 3_000_000
_KEYS = {"alice": "key-of-alice", "bob": "key-of-bob"}
_FLOOD_PAUSE_S = 0.5
_LOGGED = r" server\.access .* (\d+) \w+ client=(\S+) .*?\bms=(\d+)$"
ALICE, BOB = _KEYS.values()


def settings(engine: str, **sections: Any) -> dict[str, Any]:
    """Keys for the fairness, and a pace for the echo engine."""
    keys = [f"{name}:{key}" for name, key in _KEYS.items()]
    echo = {"token_delay_s": _TOKEN_S}
    return {
        "engine": {"kind": engine, "max_num_seqs": _SLOTS, "echo": echo},
        "server": {"drain_s": 5, "named_keys": keys},
    } | sections


async def load(sender: Sender, seconds: float, recovery_s: float) -> list[Criterion]:
    """Capacity, floods, recovery."""
    await sender.clients(_SLOTS, seconds / 2, ALICE)  # warms it
    capacity = served(await sender.clients(2 * _SLOTS, seconds, ALICE), seconds)
    usual = latency(await sender.rate(capacity / 2, seconds, ALICE), 0.99) or 0.0
    rows = [Criterion("capacity, requests/s", capacity, "–", capacity > 0)]
    after: list[Sent] = []
    for factor in (2, 10):
        flooding = asyncio.create_task(sender.rate(factor * capacity, seconds, ALICE))
        await asyncio.sleep(seconds)
        after = await sender.rate(capacity / 2, recovery_s, ALICE)
        flood = await flooding
        share = served(flood, seconds) / capacity
        rows += [
            at_least(f"served at {factor} × capacity, share of it", share, 0.9),
            *refusals(flood, f"at {factor} × capacity"),
        ]
    rows.append(
        at_most(
            "seconds until p99 is back at 1.1 of what it was",
            recovery(after, usual, recovery_s),
            10,
        )
    )
    return rows


def refusals(sent: list[Sent], title: str) -> list[Criterion]:
    """They are fast, small, and say when to come again."""
    found = refused(sent)
    other = sum(answer.status != 429 or "retry-after" not in answer.headers for answer in found)
    slow = percentile([answer.total_s for answer in found], 0.99)
    largest = max((len(answer.body) for answer in found), default=0)
    return [
        at_most(f"refusals {title} that are no 429 with Retry-After, of {len(found)}", other, 0),
        at_most(f"refusals {title}, seconds p99", slow or 0.0, _MAX_REFUSAL_S),
        at_most(f"refusals {title}, bytes of a body", largest, _MAX_REFUSAL_BYTES),
    ]


def recovery(sent: list[Sent], usual_s: float, seconds: float) -> float | None:
    """Seconds after which the requests that are sent have the usual p99 again; None if they never do."""
    moments = [0.5 * n for n in range(int(2 * seconds))]
    back = [m for m in moments if (latency(sent, 0.99, since_s=m) or float("inf")) <= 1.1 * usual_s]
    return min(back, default=None)


async def fairness(sender: Sender, seconds: float, clients: int, log: Path) -> list[Criterion]:
    """Two clients of one key alone, and while another key has many that never wait."""
    alone = await sender.clients(2, seconds, BOB)
    num_alone = len(logged_s(log, "bob", 200))
    flood = asyncio.create_task(sender.clients(clients, seconds + 2, ALICE, pause_s=_FLOOD_PAUSE_S))
    await asyncio.sleep(1)
    beside = await sender.clients(2, seconds, BOB)
    await flood
    inside = logged_s(log, "bob", 200)
    title = f"refusals of the key that does not flood, of {len(beside)}"
    name = "p95 beside another key's flood, of p95 alone"
    earlier, later = inside[:num_alone], inside[num_alone:]
    return [
        at_most(name, ratio(latency(beside, 0.95), latency(alone, 0.95)), 2),
        by_log(name, ratio(percentile(later, 0.95), percentile(earlier, 0.95))),
        at_most(title, len(refused(beside)), 0),
    ]


def by_log(name: str, value: float | None) -> Criterion:
    """The same by the server's clock, for a machine that is too busy for the clients: not judged."""
    return Criterion(f"{name}, by the server's log", value, "–", is_met=True)


def logged_s(log: Path, client: str, status: int) -> list[float]:
    """The seconds that the requests of a key took in the server, in order."""
    found = re.findall(_LOGGED, log.read_text(errors="replace"), re.MULTILINE)
    return [int(ms) / 1000 for code, name, ms in found if (name, code) == (client, str(status))]


async def memory(
    server: ServerProcess, model: str, host: MediaHost, options: argparse.Namespace
) -> list[Criterion]:
    """Two bursts. Refused requests must be told to come again."""
    ledger, rows = Ledger(), list[Criterion]()

    def body(urls: list[str]) -> bytes:
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        parts.append({"type": "text", "text": "What is it?"})
        messages = [{"role": "user", "content": parts}]
        fields = {"model": model, "max_tokens": 1, "messages": messages}
        headers = {"Authorization": f"Bearer {ALICE}"}
        path = "/v1/chat/completions"
        return request_bytes(path, json.dumps(fields).encode(), headers=headers)

    def fetched(number: int) -> list[str]:
        numbers = range(number * _PICTURES, (number + 1) * _PICTURES)
        return [host.url(1280, 720, n, _PICTURE_BYTES) for n in numbers]

    def inline(number: int) -> list[str]:
        """Of few requests, because they take the memory of this process too."""
        first = (number % 4 + 1) * 10**6
        files = [picture_file(1280, 720, first + n, _PICTURE_BYTES) for n in range(_PICTURES)]
        return [f"data:image/jpeg;base64,{base64.b64encode(file).decode()}" for file in files]

    for title, urls in (("fetched", fetched), ("inline", inline)):
        bodies = {
            n: body(urls(n)) for n in (range(options.burst) if title == "fetched" else range(4))
        }
        await ledger.send(server.address, bodies[0])
        idle = await settled(server, 0.0)
        burst = [bodies[n % len(bodies)] for n in range(options.burst)]
        peak = await peak_during(server, ledger, burst)
        left = await settled(server, idle + options.max_left * _MIB) - idle
        name = f"{options.burst} requests with {title} pictures, MiB over idle"
        rows += [
            at_most(name, (peak - idle) / _MIB, options.max_memory),
            at_most("MiB over idle that stay", left / _MIB, options.max_left),
        ]
    final = [code for code in ledger.codes if not code.startswith(("429", "503"))]
    title = f"good requests that were refused for good: {', '.join(final) or 'none'}"
    return [
        *rows,
        at_most(title, sum(ledger.codes[code] for code in final), 0),
        unexplained(ledger, "with pictures"),
    ]


def unexplained(ledger: Ledger, kind: str) -> Criterion:
    """With the first reasons."""
    name = "; ".join([f"requests {kind} that are unexplained", *ledger.notes[:3]])
    return at_most(name, ledger.num_unexplained, 0)


async def settled(server: ServerProcess, enough: float) -> float:
    """The memory when it is no more than that, or after some seconds at most."""
    deadline = time.monotonic() + (_SETTLE_S if enough else 4)
    while held_bytes(server.pid) > enough and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return held_bytes(server.pid)


async def peak_during(server: ServerProcess, ledger: Ledger, burst: list[bytes]) -> float:
    """The most memory while all these requests are sent at once."""
    sending = asyncio.gather(*(ledger.send(server.address, request) for request in burst))
    peak = 0
    while not sending.done():
        peak = max(peak, held_bytes(server.pid))
        await asyncio.wait([sending], timeout=0.05)
    return peak


async def run_load(options: argparse.Namespace, place: Folder) -> list[Criterion]:
    rows: list[Criterion] = []
    with watched_server(settings(options.engine), place) as server:
        await server.wait_ready()
        sender = Sender(server.address, options.model, _ANSWER_TOKENS[options.engine])
        if "load" in options.only:
            rows += await load(sender, options.seconds, options.recovery)
            inside = percentile(logged_s(place.log, "alice", 429), 0.99)
            rows.append(by_log("refusals, seconds p99", inside))
        if "fairness" in options.only:
            rows += await fairness(sender, options.seconds, options.clients, place.log)
        rows += [
            unexplained(sender.ledger, "with text"),
            at_most("statuses of 5xx but 503 and 504", sender.ledger.num_server_errors, 0),
        ]
    return rows


async def run(options: argparse.Namespace, place: Folder) -> int:
    """Run the parts that were chosen. Returns the exit code."""
    rows: list[Criterion] = []
    if {"load", "fairness"} & set(options.only):
        rows += await run_load(options, place)
    if "memory" in options.only:
        async with MediaHost() as host:
            values = settings(options.engine, media=host.settings() | {"cache_bytes": 64 * _MIB})
            values["engine"]["cpu"] = {
                "feature_cache_bytes": 16 * _MIB,
                "kv_cache_bytes": 64 * _MIB,
            }
            with watched_server(values, place) as server:
                await server.wait_ready()
                rows += await memory(server, options.model, host, options)
    facts = {"engine": options.engine, "phases": f"{options.seconds:g} s"}
    return report(rows, facts, [], options.json)


def parse() -> argparse.Namespace:
    parts = ["load", "fairness", "memory"]
    parser = argparse.ArgumentParser(
        prog="overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engine", choices=["cpu", "echo"], default="echo")
    add("--only", nargs="+", choices=parts, default=parts)
    add("--seconds", type=float, default=10.0, help="of each phase")
    add("--recovery", type=float, default=12.0, help="seconds of half load after each flood")
    add("--clients", type=int, default=200, help="that flood with one key")
    add("--burst", type=int, default=128, help="requests with pictures at a time")
    add("--max-memory", type=float, default=2048, metavar="MIB", help="over idle during a burst")
    add("--max-left", type=float, default=320, metavar="MIB", help="over idle after a burst")
    add("--work", type=Path, help="a new folder, to keep the server's log in")
    add("--json", type=Path, help="write figures to this file")
    return parser.parse_args()


def main() -> int:
    options = parse()
    options.model = "internvl-demo"
    with folder(options.work) as place:
        return asyncio.run(run(options, place))


if __name__ == "__main__":
    sys.exit(main())
