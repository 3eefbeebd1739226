"""How the soak tells a leak from memory that goes up and down."""

import pytest

from scripts.endurance.running import growth


def test_a_leak_is_a_slope() -> None:
    found = growth([(1000, 100.0), (2000, 110.0), (4000, 130.0)])
    assert found.slope == pytest.approx(10)
    assert found.total == pytest.approx(30)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_what_goes_up_and_down_is_an_error_of_the_slope() -> None:
    found = growth([(n * 1000, 100.0 + (-1) ** n * 8) for n in range(12)])
    assert abs(found.slope) < 2 * found.error
    assert 0.5 < found.error < 1
