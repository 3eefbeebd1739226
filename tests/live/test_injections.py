"""Short runs of the injections that no other test makes; their times are judged by `scripts/faults` alone."""

import pytest

from scripts.injections.__main__ import INJECTIONS, findings_of


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", ["C6", "C7", "C8", "C16", "C20", "C21"])
def test_what_must_hold_holds(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    findings = findings_of(INJECTIONS[number], is_short=True)
    assert findings[-1].criterion == "every request is accounted for"
    assert [one for one in findings if not one.holds and "≤" not in one.criterion] == []


def test_every_fault_of_the_programme_is_injected() -> None:
    assert list(INJECTIONS) == [f"C{number}" for number in range(1, 23)]
