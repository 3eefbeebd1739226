"""What the tests of checks share."""

from collections.abc import Callable
from typing import Any

import pytest
from internvl_server.doctor.finding import Finding
from internvl_server.doctor.subject import Subject
from internvl_server.settings.loading import load_settings

from tests.nvidia_driver import Driver, install


@pytest.fixture
def subject() -> Callable[..., Subject]:
    """Makes the subject of a check from nested settings."""

    def make(**sections: dict[str, Any]) -> Subject:
        return Subject.of(load_settings(None, sections))

    return make


@pytest.fixture
def found() -> Callable[..., list[tuple[str, str]]]:
    """Runs a check: level, and text with the remedy, of each finding."""

    def run(check: Callable[..., Any], *arguments: object) -> list[tuple[str, str]]:
        findings: list[Finding] = list(check(*arguments))
        for finding in findings:
            assert (finding.level == "ok") == (not finding.remedy), finding
        return [(finding.level, f"{finding.found} {finding.remedy}") for finding in findings]

    return run


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the driver, the LMDeploy and the torch that this machine appears to have."""

    def have(driver: Driver | None, version: str | None = "0.18.0", **rest: Any) -> None:
        install(monkeypatch, driver, version, **rest)

    return have
