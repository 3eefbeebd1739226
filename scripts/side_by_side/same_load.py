"""Send the same load with `internvl-server bench` to three servers in turn, and print one table.

    scripts/bench-same-load
    scripts/bench-same-load --work build/same -- --request-rate 4 --image-count 1

Our server and LMDeploy's run on the stand-in for a GPU, the third is the plain stub of
`scripts/load/openai_stub.py`; each makes a token of every request each `--step-ms`. Options after `--` are
those of `bench`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.load.figures import markdown_table
from scripts.load.machine import describe, described
from scripts.load.servers import ServerProcess
from scripts.load.systems import Http
from scripts.load.turns.parts import SystemKind
from scripts.side_by_side.__main__ import Starter
from scripts.side_by_side.model import make_model

DEFAULT = [
    "--num-prompts", "200", "--request-rate", "10", "--input-len", "128", "--output-len", "64",
    "--num-prefixes", "1", "--prefix-len", "16",  # or each server would add its own system text
    "--ignore-eos", "--num-warmups", "8",
]  # fmt: skip
ROWS = {
    "completed": "completed requests",
    "failed": "failed requests",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    **{
        f"{kind}_{metric}_ms": f"{metric.upper()} {kind} (ms)"
        for metric in ("ttft", "tpot", "itl", "e2el")
        for kind in ("mean", "median", "p90", "p95", "p99")
    },
    "client_cpu_share": "CPU of the client (cores)",
    "client_loop_lag_p99_ms": "lag of its event loop, p99 (ms)",
}


def systems(folder: Path, work: Path, step_ms: str) -> Iterator[Http]:
    """Each is started when the one before it has been stopped."""
    starter = Starter(folder, work, step_ms)
    yield starter.new(SystemKind("ours"))
    yield starter.new(SystemKind("lmdeploy"))
    command = [sys.executable, "-m", "scripts.load.openai_stub", "{port}", step_ms]
    yield Http("stub", ServerProcess(command, work / "stub.log", ready_path="/v1/models"))


def load(system: Http, folder: Path, work: Path, options: list[str]) -> dict[str, Any]:
    """The result file of a run against one server."""
    file = work / f"{system.name}.json"
    command = [
        sys.executable, "-m", "internvl_server", "bench", f"http://127.0.0.1:{system.process.port}",
        "--tokenizer", folder, "--result-filename", file, "--label", system.name,
        "--plot", file.with_suffix(".svg"), *options,
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench-same-load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("build/same-load"))
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("options", nargs="*", help="of internvl-server bench, after --")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = make_model(options.work / "model", None)
    results = {}
    for system in systems(folder, options.work, f"{options.step_ms:g}"):
        with system.process:
            asyncio.run(system.start())
            results[system.name] = load(system, folder, options.work, options.options or DEFAULT)
    rows = [[label, *(result[name] for result in results.values())] for name, label in ROWS.items()]
    print(f"{described(describe())}\n\n{markdown_table(['', *results], rows)}")


if __name__ == "__main__":
    main()
