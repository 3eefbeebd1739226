"""Schedules of open loops."""

import numpy as np
import pytest
from internvl_server.bench.arrivals import schedule


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0, float("inf")])
def test_the_last_arrival_is_at_the_end(burstiness: float) -> None:
    times = schedule(500, 20, burstiness=burstiness, seed=3)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(25)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_intervals_vary_as_their_distribution_does(burstiness: float) -> None:
    """The coefficient of variation of a gamma distribution is 1 / sqrt(shape)."""
    intervals = np.diff(schedule(20_000, 100, burstiness=burstiness, seed=1))
    assert intervals.std() / intervals.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_constant_intervals_are_constant() -> None:
    assert schedule(4, 10, burstiness=float("inf")) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert schedule(3, float("inf")) == [0, 0, 0]


def test_a_seed_makes_one_schedule() -> None:
    assert schedule(50, 5, seed=7) == schedule(50, 5, seed=7) != schedule(50, 5, seed=8)
