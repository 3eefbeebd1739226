"""`scripts/bench --cpu-engine` measures the engine and transformers on one checkpoint."""

import sys
from pathlib import Path

import pytest

from scripts.side_by_side.cpu_engine import compare


@pytest.mark.model
def test_every_system_has_its_figures(tmp_path: Path) -> None:
    lines = compare(sys.executable, "tiny", tmp_path, 1).splitlines()
    rows = [
        line.split(" | ") for line in lines if line.startswith(("| a", "| 256", "| load", "| mem"))
    ]
    assert len(rows) == 12
    for row in rows:
        assert len(row) == 6
        assert all(float(value.strip("| ")) > 0 for value in row[1:])
