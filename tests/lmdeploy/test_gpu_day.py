"""The scripts of a GPU day, on stand-ins: they must come to their end here, so that no GPU minute is lost."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(
    1200
)  # they start many processes, which a busy machine does slowly
SLOW = pytest.mark.slow
TRIALS = [
    "adapter, AWQ",
    "server",
    *(
        pytest.param(name, marks=SLOW)
        for name in (
            "adapter", "adapter, authors' layout", "adapter, 6B's vision", "adapter, Qwen3",
            "adapter, Qwen3 with experts", "adapter, InternLM2", "adapter, float16",
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert {row["trial"] for row in rows} == {trial}
    left = [row for row in rows if row["state"] != "PASSED"]
    if trial == "adapter, InternLM2":
        [row] = left
        assert row["figures"] == "transformers has no class for the authors' layout"
    else:
        assert left == []
    assert all(row["figures"] for row in rows)


def test_gpu_bench_fills_every_row_and_goes_on_where_it_stopped(tmp_path):
    command = [
        sys.executable, "-m", "scripts.gpu_bench", "--random", "--stand-in", "--work", tmp_path,
        "--clients", "2", "--requests-per-client", "1", "--prompt-tokens", "64", "--new-tokens", "8",
        "--rate", "50", "--json", tmp_path / "figures.json", "--markdown", tmp_path / "tables.md",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = (tmp_path / "tables.md").read_text()
    assert "NOT RUN" not in tables
    records = json.loads((tmp_path / "figures.json").read_text())["records"]
    assert {record["system"] for record in records} == {
        "ours", "lmdeploy", "raw", "ours, 2048 a pass", "ours, 8192 a pass",
    }  # fmt: skip
    for record in records:
        figures = record["figures"]
        assert (record["problem"], figures["num_failed"]) == ("", 0), record
        assert figures["ttft_p50_ms"] > 0
        assert figures["tokens_per_s"] > 0
    prompts = {
        (r["measure"], r["figures"]["prompt_tokens"]) for r in records if "table" in r["part"]
    }
    assert len(prompts) == len({measure for measure, _ in prompts}), "not the same prompts"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0
    assert again.stderr == "", "nothing is left to be measured"
