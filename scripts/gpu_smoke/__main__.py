"""Try a checkpoint on this machine's NVIDIA GPUs, and print one table of what passed, failed or was not run.

    scripts/gpu-smoke /models/InternVL3-2B-hf
    scripts/gpu-smoke --random          # no weights at hand: checkpoints of random numbers, 1B-shaped
    scripts/gpu-smoke --random --time-limit 540   # and again, until nothing is left
    scripts/gpu-smoke /models/InternVL3-8B-hf --config internvl3-8b --set engine.turbomind.quant_policy=8

A trial loads a checkpoint once. Those named `adapter` run in a program with the engine: which types of
weights the GPU multiplies, all kinds of request, 1,000 aborts, and the logits after 64 prompts beside those
of transformers. Those named `server` ask the whole server over HTTP. Results are kept in the folder `--work`
as they come, so that a crash or the time limit loses none; checks that have a result are not made again
unless `--again` is given. Needs no network. It exits with 1 when anything failed.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

from internvl_server.checkpoint.files import load_config
from internvl_server.engine.turbomind.machine import check_machine, count_gpus
from internvl_server.errors import StartupError
from internvl_server.planner.gpus import GpuMemory
from internvl_server.settings import ModelSettings, TurbomindSettings

from scripts.gpu_smoke.deployment import Machine, largest_tp
from scripts.gpu_smoke.results import Results, Row, State
from scripts.gpu_smoke.runs import Lab
from scripts.gpu_smoke.trials import Trial, trials_for
from scripts.load.figures import markdown_table
from scripts.load.machine import describe, described

STAND_IN = "--step-ms", "10"  # half of its context lasts longer than the server drains


def main() -> int:
    options = parse()
    if options.stand_in:
        from scripts.stand_in.driver import install_driver

        install_driver()
    try:
        gpus = check_machine(TurbomindSettings(tp=max(1, count_gpus())))
    except StartupError as error:
        print(f"gpu-smoke: {error.message}", file=sys.stderr)
        return 1
    trials = trials_for(is_random=options.random, tp=tp_of(options, gpus), only=options.only)
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.work / "results.jsonl", time.monotonic() + options.time_limit)
    if options.again:
        results.forget([trial.name for trial in trials])
    lab = Lab(
        Machine(gpus, options.config, tuple(options.set)), options.work, results, options.model,
        "tiny" if options.stand_in else "1b", STAND_IN if options.stand_in else None,
        options.prompts, options.aborts, options.streams,
    )  # fmt: skip
    asyncio.run(run_all(lab, trials))
    rows = results.table({trial.name: trial.expected for trial in trials})
    return report(rows, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu-smoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", help="checkpoint folder")
    add("--random", action="store_true", help="write and use checkpoints of random numbers")
    add("--config", default="", help="a configuration file, as for serve")
    add("--set", action="append", default=[], help="a setting of every trial, as for serve")
    add(
        "--only",
        action="append",
        default=[],
        help="only trials whose names fit, such as 'adapter*'",
    )
    add("--time-limit", type=float, default=math.inf, help="begin no check after so many seconds")
    add("--work", type=Path, default=Path("gpu-day"), help="folder of results and checkpoints")
    add("--again", action="store_true", help="forget the results of these trials first")
    add("--json", type=Path, help="write the table to this file as well")
    add("--prompts", type=int, default=64, help="of the comparison with transformers")
    add("--aborts", type=int, default=1000, help="requests that are left, in the engine")
    add("--streams", type=int, default=64, help="streams at a time")
    add("--stand-in", action="store_true", help="without a GPU: tiny models on stand-ins")
    options = parser.parse_args()
    if (options.model is None) != options.random:
        parser.error("give a checkpoint folder, or --random")
    return options


def tp_of(options: argparse.Namespace, gpus: tuple[GpuMemory, ...]) -> int:
    """How many of the GPUs the model can be split over; a random 1B over two at most."""
    if options.model is None:
        return min(2, len(gpus))
    return largest_tp(load_config(ModelSettings(path=str(options.model))), len(gpus))


async def run_all(lab: Lab, trials: list[Trial]) -> None:
    for trial in trials:
        print(f"{trial.name} ...", file=sys.stderr, flush=True)
        await lab.run(trial)


def report(rows: list[Row], options: argparse.Namespace) -> int:
    facts = describe() | {"model": str(options.model or "random numbers")}
    if options.stand_in:
        facts["stand-in"] = "no GPU: the weights and TurboMind's native loop were stand-ins"
    table = markdown_table(
        ("trial", "check", "", "figures", "s"),
        [(row.trial, row.check, row.state, row.figures, row.seconds or None) for row in rows],
    )
    counts = {state: sum(row.state is state for row in rows) for state in State}
    total = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    print(f"{described(facts)}\n\n{table}\n\n{total}")
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "rows": list(map(asdict, rows))}))
    return 1 if counts[State.FAILED] or counts[State.BEGUN] else 0


if __name__ == "__main__":
    sys.exit(main())
