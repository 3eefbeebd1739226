"""Two real replicas are measured beside the simulator."""

from pathlib import Path

import pytest

from scripts.fleet.simulation import Workload
from scripts.fleet.two_replicas import compare


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["echo", "cpu"])
async def test_two_replicas_are_measured_and_simulated(engine: str, tmp_path: Path) -> None:
    workload = Workload(1.0, 40, turns=4, num_live=5, mean_tokens=3)
    text = await compare(engine, workload, 0.5, tmp_path)
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert len(rows[0]) == 1 + 3 * 2  # policies, measured and simulated
    figures = {row[0].strip(): [float(cell) for cell in row[1:]] for row in rows[2:]}
    assert ("cache hits" in figures) == (engine == "cpu")
    assert all(value > 0 for values in figures.values() for value in values)
