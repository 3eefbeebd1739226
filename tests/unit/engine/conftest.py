from collections.abc import Callable

import pytest

from tests.nvidia_driver import Driver, install


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the NVIDIA driver and the version of LMDeploy that this machine appears to have."""

    def have(driver: Driver | None, version: str | None = "0.18.0") -> None:
        install(monkeypatch, driver, version)

    return have
