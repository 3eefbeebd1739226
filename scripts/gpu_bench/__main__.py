"""Measure our server, LMDeploy's own and its raw pipeline on the same GPU, in turn, with the same settings.

    scripts/gpu-bench /models/InternVL3-2B-hf
    scripts/gpu-bench --random --time-limit 540   # and again, until nothing is left
    scripts/gpu-bench --random --only 'table: text' --rounds 3

The table has time to the first token, gaps, tokens and requests a second, and CPU a token, for text, one
tile and thirteen tiles, greedy, with top_k 50 and with each system's defaults, at 1 to 128 clients that send
their next request when the last is answered. Further parts: the first pictures after a start, constraints,
log probabilities, and text streams beside pictures with small and large prefill steps. All systems of a part
are loaded at once and measured in turn; each has a key-value cache of `--cache-gib`.

Measurements are kept in the folder `--work` as they come; those that are there are not made again unless
`--again` is given. Needs no network. It exits with 1 when a measurement failed.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

from internvl_server.engine.turbomind.machine import check_machine
from internvl_server.errors import StartupError
from internvl_server.settings import TurbomindSettings

from scripts.gpu_bench.cells import Scale
from scripts.gpu_bench.columns import COLUMNS
from scripts.gpu_bench.parts import parts
from scripts.gpu_bench.start import Starter
from scripts.gpu_smoke.checkpoints import make
from scripts.load.machine import describe, described
from scripts.load.turns.bench import Bench
from scripts.load.turns.records import Records, tables


def main() -> int:
    options = parse()
    if options.stand_in:
        from scripts.stand_in.driver import install_driver

        install_driver()
    try:
        check_machine(TurbomindSettings())
    except StartupError as error:
        print(f"gpu-bench: {error.message}", file=sys.stderr)
        return 1
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "bench.jsonl"
    if options.again:
        path.unlink(missing_ok=True)
    size = "tiny" if options.stand_in else "1b"
    folder = options.model or make(options.work, size, "hf")
    records = Records(path)
    starter = Starter(
        folder, options.work, max(options.clients), options.cache_gib,
        ("--scripted", "--step-ms", "2") if options.stand_in else None,
    )  # fmt: skip
    scale = Scale(
        folder, starter.tile_px, options.prompt_tokens, options.new_tokens,
        tuple(options.clients), options.requests_per_client,
    )  # fmt: skip
    patterns = options.only or ["*"]
    chosen = [
        part
        for part in parts(scale, options.rate)
        if any(fnmatchcase(part.name, pattern) for pattern in patterns)
    ]
    bench = Bench(starter.new, records, time.monotonic() + options.time_limit, options.rounds)
    asyncio.run(bench.run(chosen))
    report(records, list(tables(records, chosen, COLUMNS)), options)
    return 1 if records.has_failure(chosen) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu-bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", help="checkpoint folder in transformers' layout")
    add("--random", action="store_true", help="write and use a 1B of random numbers")
    add("--only", action="append", default=[], help="only parts whose names fit, as 'table*'")
    add("--rounds", type=int, default=1, help="of each measurement; medians are shown")
    add("--clients", type=int, nargs="+", default=[1, 8, 32, 64, 128])
    add("--requests-per-client", type=int, default=2)
    add("--prompt-tokens", type=int, default=512, help="of text requests")
    add("--new-tokens", type=int, default=128, help="of every answer")
    add("--rate", type=float, action="append", default=[], help="requests a second, open loop")
    add("--cache-gib", type=float, default=12.0, help="key-value cache of each system")
    add("--time-limit", type=float, default=math.inf, help="begin nothing after so many seconds")
    add("--work", type=Path, default=Path("gpu-day"), help="folder of results and checkpoints")
    add("--again", action="store_true", help="forget all measurements first")
    add("--json", type=Path, help="write figures to this file")
    add("--markdown", type=Path, help="write the tables to this file as well")
    add("--stand-in", action="store_true", help="without a GPU: a tiny model on stand-ins")
    options = parser.parse_args()
    if (options.model is None) != options.random:
        parser.error("give a checkpoint folder, or --random")
    return options


def report(records: Records, found: list[str], options: argparse.Namespace) -> None:
    facts = describe() | {"model": str(options.model or "random numbers, 1B-shaped")}
    facts["requests"] = (
        f"{options.prompt_tokens} tokens of text or a picture, {options.new_tokens} new tokens"
    )
    if options.stand_in:
        facts["stand-in"] = "no GPU: TurboMind's native loop was a stand-in of 2 ms a step"
    text = "\n\n".join([described(facts), *found])
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "records": records.as_list()}))


if __name__ == "__main__":
    sys.exit(main())
