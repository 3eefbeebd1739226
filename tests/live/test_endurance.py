"""Shortened runs of the trials under load: a good server passes, a planted leak is found."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GOOD = "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# Refused without a word, with an error, and with an error before the request is whole.
BAD = ["GET / HTTP/9\r\n\r\n", GOOD.replace("models", "nothing"), "BAD\r\n" + GOOD]
# A run of seconds has too few requests for the limits of a long one.
SHORT = [
    "--engine",
    "echo",
    "--minutes",
    "0.1",
    "--cache-mib",
    "1",
    "--rate",
    "80",
    "--max-slope",
    "60",
]


def run(module: str, tmp_path: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the rows of the table."""
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", module, "--json", str(path), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert path.exists(), done.stderr
    rows = json.loads(path.read_text())["criteria"]
    return done.returncode, {row["name"]: row for row in rows}


@pytest.mark.slow  # seconds are too few to tell the noise of a busy machine from a leak
@pytest.mark.parametrize("leak", [[], ["--leak", "20"]], ids=["good", "leaking"])
def test_a_soak_finds_a_leak_and_nothing_else(tmp_path: Path, leak: list[str]) -> None:
    requests = tmp_path / "hostile.jsonl"
    cases = [
        {"id": str(n), "request": text, "status": [400, 404, None]} for n, text in enumerate(BAD)
    ]
    requests.write_text("\n".join(map(json.dumps, cases)))
    code, rows = run("scripts.endurance.soak", tmp_path, *SHORT, "--requests", str(requests), *leak)
    failed = {name for name, row in rows.items() if not row["is_met"]}
    assert len(rows) == 14
    found = {"memory in pauses, MiB in 1,000 requests"} if leak else set()
    assert failed - {"memory under load, MiB in all"} == found
    assert code == (1 if leak else 0)


def test_an_overload_is_measured_to_its_end(tmp_path: Path) -> None:
    """What depends on the speed of the machine is not judged."""
    sizes = ["--seconds", "1", "--clients", "40", "--burst", "8", "--recovery", "1"]
    _, rows = run("scripts.endurance.overload", tmp_path, *sizes)
    assert rows["capacity, requests/s"]["value"] > 0
    assert rows["8 requests with inline pictures, MiB over idle"]["is_met"]
    exact = [
        row for name, row in rows.items() if "unexplained" in name or "5xx" in name or "429" in name
    ]
    assert len(exact) == 5, rows
    assert all(row["is_met"] for row in exact), exact
