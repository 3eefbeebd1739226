"""The scripts of a GPU day, on stand-ins: they must come to their end here, so that no GPU minute is lost."""

import json
import subprocess
import sys

import pytest

SLOW = pytest.mark.slow
TRIALS = [
    "adapter, AWQ",
    "server",
    *(
        pytest.param(name, marks=SLOW)
        for name in (
            "adapter", "adapter, authors' layout", "adapter, 6B's vision", "adapter, float16",
            "adapter, 8-bit cache", "adapter, 4-bit cache", "server, no prefix cache",
            "server, full cache",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS)
def test_gpu_smoke_fills_every_row(tmp_path, trial):
    command = [
        sys.executable, "-m", "scripts.gpu_smoke", "--random", "--stand-in", "--work", tmp_path,
        "--only", trial, "--prompts", "8", "--aborts", "60", "--streams", "8", "--json",
        tmp_path / "table.json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert {row["trial"] for row in rows} == {trial}
    assert [row for row in rows if row["state"] != "PASSED"] == []
    assert all(row["figures"] for row in rows)
