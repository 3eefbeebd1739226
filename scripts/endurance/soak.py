"""Load a server with mixed requests for a long time, and see whether anything grows or is lost.

    scripts/soak --minutes 30                       # the CPU engine with the demo model
    scripts/soak --minutes 30 --engine echo
    scripts/soak --minutes 30 --engine turbomind    # on the stand-ins for a GPU
    scripts/soak --minutes 5 --leak                 # must fail

Eight tenths of the requests are good, of all dialects, with pictures, videos and schemas that differ from all
before; a tenth is hostile, from the corpus of the tests; of a tenth the client leaves at some stage. They
come at random times, at half the rate that the server was found to bear. Before, the hostile ones are sent
once, and the first third of the time fills caches. After it, memory may grow by little, from one pause of the
load to another and under load; from one idle moment to another, nothing else may. Every request is accounted
for. Prints a table, and exits with 1 when a criterion fails.
"""

import argparse
import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.endurance.criteria import Criterion, at_most, report
from scripts.endurance.mix import Mix, hostile_requests
from scripts.endurance.running import Soak, growth
from scripts.endurance.starting import Folder, folder, metrics_of, served_name, watched_server
from scripts.load.accounts.outcomes import Outcome
from scripts.load.media_host import MediaHost
from scripts.load.watch.state import State

_MIB = 1 << 20
_MAX_RESTS = 12
_ALLOWED = State(fds=2, children=0, files=0, tasks=0, threads=0, objects=0)


def settings(options: argparse.Namespace, host: MediaHost) -> dict[str, Any]:
    """Caches are small, so that they are full before growth is measured."""
    cpu = {"feature_cache_bytes": 8 * _MIB, "kv_cache_bytes": 48 * _MIB}
    return {
        "engine": {"kind": options.engine, "cpu": cpu},
        "media": host.settings() | {"cache_bytes": options.cache_mib * _MIB},
        "server": {"drain_s": 5},
    }


async def run(options: argparse.Namespace, place: Folder) -> int:
    """Start a server, load it and judge it. Returns the exit code."""
    seconds = options.minutes * 60
    flags = ["--leak", str(options.leak)] if options.leak else []
    async with MediaHost() as host:
        hostile = hostile_requests(options.requests, host)
        with watched_server(settings(options, host), place, *flags) as server:
            ready_s = await server.wait_ready()
            mix = Mix(await served_name(server), host, hostile, seed=options.seed)
            soak = Soak(server, place.temporary, mix)
            metrics = await metrics_of(server)
            await soak.idle_state()  # starts what is started on demand
            await soak.send_hostile()
            rate = options.rate or await soak.capacity(min(10.0, seconds / 10)) / 2
            before = soak.memory_mib
            await soak.load(seconds / 3, rate)
            start = await soak.idle_state()
            async with soak.sampling(min(1.0, seconds / 100)):
                num_rests = max(3, min(_MAX_RESTS, int(seconds // 20)))
                await soak.load_and_rest(seconds * 2 / 3, rate, num_rests)
            end = await soak.idle_state()
            wrong = soak.ledger.compare_with_metrics(metrics, await metrics_of(server))
    facts = {
        "engine": f"{options.engine}, ready after {ready_s:.1f} s",
        "load": f"{rate:.1f} requests/s for {options.minutes:g} minutes, {len(hostile)} hostile ones",
        "memory": f"{before:.0f} MiB before it, {soak.samples[0][1]:.0f} MiB after a third, "
        f"{soak.samples[-1][1]:.0f} MiB at the end; in pauses "
        + ", ".join(f"{memory:.1f}" for _, memory in soak.rests),
        "requests": soak.ledger.identity,
    }
    log = place.log.read_text(errors="replace").split("\n")
    rows = [*criteria_of_memory(soak, options), *criteria_of_state(start, end)]
    rows += criteria_of_accounts(soak, log)
    rows.append(at_most("differences between answers and metrics", len(wrong), 0))
    codes = [f"{count} × {code}" for code, count in soak.ledger.codes.most_common(12)]
    notes = [*soak.ledger.notes, *soak.ledger.compare_with_log(log), *wrong, *codes]
    return report(rows, facts, notes, options.json)


def criteria_of_memory(soak: Soak, options: argparse.Namespace) -> list[Criterion]:
    """After the first third."""
    at_rest = growth(soak.rests)
    return [
        at_most("memory in pauses, MiB in 1,000 requests", at_rest.slope, options.max_slope),
        Criterion("its standard error", at_rest.error, "–", is_met=True),
        at_most("memory under load, MiB in all", growth(soak.samples).total, options.max_growth),
    ]


def criteria_of_state(start: State, end: State) -> list[Criterion]:
    """What an idle server has after a third of the time, and at the end."""
    excess = end.excess(start, _ALLOWED)
    return [
        Criterion(f"{name} at idle", f"{getattr(start, name)}, then {count}", "no more", not excess[name])
        for name, count in asdict(end).items()
    ]  # fmt: skip


def criteria_of_accounts(soak: Soak, log: list[str]) -> list[Criterion]:
    """Nothing is lost."""
    ledger, good = soak.ledger, soak.good
    failed = good.num_sent - good.outcomes[Outcome.COMPLETED]
    return [
        at_most("requests that are unexplained", ledger.num_unexplained, 0),
        at_most("statuses of 5xx but 503 and 504", ledger.num_server_errors, 0),
        at_most("good requests that were not completed", failed, 0),
        at_most("answers without one line in the log", len(ledger.compare_with_log(log)), 0),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="of load, a third of it to fill caches")
    add("--engine", choices=["cpu", "echo", "turbomind"], default="cpu")
    add(
        "--rate",
        type=float,
        default=0.0,
        help="requests a second, instead of half of what it bears",
    )
    add(
        "--leak", type=int, nargs="?", const=1, default=0, metavar="MIB",
        help="plant a leak of so much in 100 requests, to be found; 1 by default",
    )  # fmt: skip
    add("--max-slope", type=float, default=0.5, help="MiB that 1,000 requests may add")
    add("--max-growth", type=float, default=32.0, help="MiB that all may add after a third")
    add("--cache-mib", type=int, default=16, help="of prepared pictures")
    add("--requests", type=Path, help="a file of hostile ones, instead of the corpus of the tests")
    add("--seed", type=int, default=0)
    add("--work", type=Path, help="a new folder, to keep the server's log in")
    add("--json", type=Path, help="write figures to this file")
    return parser.parse_args()


def main() -> int:
    options = parse()
    with folder(options.work) as place:
        return asyncio.run(run(options, place))


if __name__ == "__main__":
    sys.exit(main())
