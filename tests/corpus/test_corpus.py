"""The corpus of bad requests: a part of it against a server, and against one whose guard is missing.

`scripts/corpus` sends all of it.
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from scripts.bad_input.cases import read_cases

ROOT = Path(__file__).parents[2]


def run(*options: str) -> tuple[int, str]:
    # Whether the loop stands still is judged by tests/pauses/test_heavy_requests.py, which tries again.
    command = [sys.executable, "-m", "scripts.bad_input", "--max-lag", "1", *options]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )
    return done.returncode, done.stdout + done.stderr


def figure(report: str, name: str) -> int:
    found = re.search(rf"{name}: (\d+)", report)
    assert found, report
    return int(found[1])


def test_every_class_has_cases() -> None:
    cases = read_cases(sorted(Path(__file__).parent.glob("*.jsonl")))
    counts = Counter(case.id[0] for case in cases)
    assert set(counts) == set("ABCDEFGHIJKL")
    assert counts.total() >= 2500
    assert min(counts.values()) >= 40


def test_bad_requests_are_answered_as_they_should_be() -> None:
    code, report = run("--short", "1")
    assert code == 0, report


def test_a_server_that_fetches_from_anywhere_is_noticed() -> None:
    code, report = run("--only", "A/url 127", "A/dns 7f", "A/redirect 127", "--unguarded")
    assert code == 1
    assert figure(report, "connections to sentinels") > 0
    assert figure(report, "other addresses dialled") > 0
    assert "WRONG A/url 127.0.0.1" in report
