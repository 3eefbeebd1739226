"""Measure our server and LMDeploy's own in turn, without a GPU, and print tables with ratios.

    scripts/bench                                    # all parts, ten minutes or more
    scripts/bench --only 'streams*' --rounds 5
    scripts/bench --again --markdown bench.md --json bench.json
    scripts/bench --cpu-engine .venv/bin/python      # instead: the CPU engine beside transformers

Both servers run on the same stand-in for the weights and TurboMind's native loop, which makes a token of
every request each `--step-ms`; all else is real. So the figures are those of HTTP, tokenizing, pictures and
LMDeploy's Python layers, and their ratios matter more than they do. `floor` is a bare ASGI app that sends
prepared frames. Needs the environment of `scripts/lmdeploy-env`, in which the script `scripts/bench` runs
it. Measurements are kept in `--work`; those that are there are not made again unless `--again` is given.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from scripts.load.machine import describe, described
from scripts.load.servers import ServerProcess
from scripts.load.systems import Http, lmdeploy, ours
from scripts.load.turns.bench import Bench
from scripts.load.turns.parts import Part, SystemKind
from scripts.load.turns.records import Records, tables
from scripts.side_by_side.cases import Sizes, columns_of, parts
from scripts.side_by_side.cpu_engine import compare
from scripts.side_by_side.model import make_model

CONTEXT = 40_960
MAX_SEQS = 1024


@dataclass(frozen=True)
class Starter:
    """The systems, with the settings that both servers have."""

    folder: Path
    work: Path
    step_ms: str

    def new(self, kind: SystemKind) -> Http:
        if kind.kind == "floor":
            command = [sys.executable, "-m", "scripts.side_by_side.floor", "{port}", self.step_ms]
            return Http("floor", ServerProcess(command, self.work / "floor.log"))
        values = {
            "model": {
                "path": str(self.folder),
                "served_name": "model",
                "max_model_len": CONTEXT,
            },
            "server": {"drain_s": 5},
            "engine": {"kind": "turbomind", "max_num_seqs": MAX_SEQS},
            "media": {"shared_tiles": 8 * 13},  # as many as LMDeploy cuts 8 large pictures into
            "limits": {"max_in_flight": 2 * MAX_SEQS, "max_tiles_in_flight": 8192},
        }
        start = ours if kind.kind == "ours" else lmdeploy
        options = ("--scripted", "--step-ms", self.step_ms)
        return start(values, self.work, stand_in=options)


def main() -> int:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.cpu_engine:
        table = compare(options.cpu_engine, options.cpu_shape, options.work, options.rounds)
        write(f"{described(describe())}\n\n{table}", options.markdown)
        return 0
    path = options.work / "bench.jsonl"
    if options.again:
        path.unlink(missing_ok=True)
    folder = make_model(options.work / "model", options.tokenizer)
    sizes = Sizes(
        folder, tuple(options.streams), options.new_tokens, options.pictures,
        many_requests=options.many, step_ms=options.step_ms,
    )  # fmt: skip
    chosen = [
        part
        for part in parts(sizes)
        if any(fnmatchcase(part.name, pattern) for pattern in options.only or ["*"])
    ]
    records = Records(path)
    starter = Starter(folder, options.work, f"{options.step_ms:g}")
    asyncio.run(Bench(starter.new, records, math.inf, options.rounds).run(chosen))
    report(records, chosen, options)
    return 1 if records.has_failure(chosen) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", action="append", default=[], help="only parts whose names fit, as 'streams*'")
    add("--rounds", type=int, default=3, help="of each measurement; medians are shown")
    add("--streams", type=int, nargs="+", default=[8, 64, 128, 1000])
    add("--new-tokens", type=int, default=100, help="of every streamed answer")
    add("--pictures", type=int, default=24, help="requests with a picture in a round")
    add("--many", type=int, default=2000, help="requests between the two measurements of memory")
    add("--step-ms", type=float, default=20.0, help="of the stand-in for the native loop")
    add("--tokenizer", type=Path, help="a tokenizer.json of Qwen2.5, instead of one learnt here")
    add("--cpu-engine", metavar="PYTHON", help="an interpreter with the extras cpu and test")
    add("--cpu-shape", default="1b", help="of the random weights for --cpu-engine")
    add("--work", type=Path, default=Path("build/bench"), help="folder of results and the model")
    add("--again", action="store_true", help="forget all measurements first")
    add("--json", type=Path, help="write figures to this file")
    add("--markdown", type=Path, help="write the tables to this file as well")
    return parser.parse_args()


def write(text: str, path: Path | None) -> None:
    print(text)
    if path:
        path.write_text(text + "\n")


def report(records: Records, chosen: list[Part], options: argparse.Namespace) -> None:
    facts = describe() | {
        "rounds": f"{options.rounds}, in turn; medians",
        "stand-in": f"a token of every request each {options.step_ms:g} ms",
    }
    found = [table for part in chosen for table in tables(records, [part], columns_of(part))]
    write("\n\n".join([described(facts), *found]), options.markdown)
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "records": records.as_list()}))


if __name__ == "__main__":
    start = time.monotonic()
    code = main()
    print(f"\n{time.monotonic() - start:.0f} s", file=sys.stderr)
    sys.exit(code)
