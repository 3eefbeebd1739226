"""Compare round robin, least outstanding requests and picture affinity on a simulated fleet.

    scripts/simulate-fleet --plot fleet.svg               # everything, several minutes
    scripts/simulate-fleet --replicas 10 --loads 0.7 1.1  # a part of it
    scripts/simulate-fleet --two-replicas echo            # instead: two real replicas beside the simulator
    scripts/simulate-fleet --capacity                     # instead: the table of server/docs/capacity.md

Loads are shares of what the fleet serves if every request goes to the replica that knows its picture.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from scripts.fleet.capacity import GPUS, Replicas, Usage, capacity_table
from scripts.fleet.plot import draw
from scripts.fleet.routing import POLICIES
from scripts.fleet.simulation import Workload, simulate, summary
from scripts.fleet.two_replicas import compare
from scripts.load.figures import markdown_table

TTFT_S = 2.0
_ROWS = {
    "throughput": "answers/s a replica",
    "goodput": "of these with a first token within 2 s",
    "refused": "refused",
    "hit_rate": "known beginnings",
    "ttft_p50_s": "first token, p50 (s)",
    "ttft_p99_s": "first token, p99 (s)",
    "e2e_p99_s": "answer, p99 (s)",
}

Results = dict[str, dict[float, dict[str, float]]]  # by policy and load


def run(num_replicas: int, loads: list[float], options: argparse.Namespace) -> Results:
    """Figures of all policies; rates are those of one replica."""
    gpu = next(gpu for gpu in GPUS if gpu.name.startswith(options.gpu))
    fleet = Replicas(gpu, Usage())
    results: Results = {}
    for name, make in POLICIES.items():
        costs = fleet.costs(sent_home=float(name == "picture affinity"))
        for load in loads:
            rate = load * fleet.capacity(1.0) * num_replicas
            workload = Workload(
                rate, options.requests * num_replicas, fleet.usage.turns,
                max(1, round(rate * fleet.usage.think_s)), fleet.usage.answer_tokens, options.seed,
            )  # fmt: skip
            start = time.monotonic()
            jobs, begun = workload.jobs()
            simulate(jobs, num_replicas, costs, make(num_replicas), begun)
            found = summary(jobs, ttft_s=TTFT_S)
            for key in ("throughput", "goodput"):
                found[key] /= num_replicas
            results.setdefault(name, {})[load] = found
            took_s = time.monotonic() - start
            print(
                f"{num_replicas} replicas, {name}, load {load:g}: {took_s:.1f} s", file=sys.stderr
            )
    return results


def table(results: Results, load: float) -> str:
    """One load: a line for each figure, a column for each policy."""
    rows = [
        [label, *(by_load[load][key] for by_load in results.values())]
        for key, label in _ROWS.items()
    ]
    return markdown_table(["", *results], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="simulate-fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--replicas", type=int, nargs="+", default=[2, 10, 100, 1000])
    add("--loads", type=float, nargs="+", default=[0.4, 0.6, 0.8, 1.0, 1.2, 1.5])
    add("--gpu", choices=[gpu.name.split()[0] for gpu in GPUS], default="A100")
    add("--requests", type=int, default=600, help="of each replica")
    add("--seed", type=int, default=0)
    add("--plot", type=Path, help="draw the largest fleet to this SVG")
    add("--capacity", action="store_true", help="print the table of users and replicas")
    add("--two-replicas", choices=["echo", "cpu"], help="engine of two real replicas to measure")
    add("--load", type=float, default=0.6, help="of two replicas, as a share of what they serve")
    add("--work", type=Path, default=Path("build/fleet"), help="folder of logs")
    options = parser.parse_args()
    if options.capacity:
        print(capacity_table())
    elif options.two_replicas:
        workload = Workload(1.0, options.requests, 6, 12, 24.0, options.seed)
        print(asyncio.run(compare(options.two_replicas, workload, options.load, options.work)))
    else:
        simulate_all(options)


def simulate_all(options: argparse.Namespace) -> None:
    results: Results = {}
    for num_replicas in options.replicas:
        results = run(num_replicas, options.loads, options)
        for load in options.loads:
            print(
                f"\n{num_replicas} replicas, load {load:g}:\n\n{table(results, load)}", flush=True
            )
    if options.plot:
        title = f"{options.replicas[-1]:,} replicas ({options.gpu}, on paper)"
        options.plot.write_text(draw(results, title), encoding="utf-8")


if __name__ == "__main__":
    main()
