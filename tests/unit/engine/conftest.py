from collections.abc import Callable
from typing import Any

import pytest

from tests.nvidia_driver import Driver, install


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the driver, the LMDeploy and the torch that this machine appears to have."""

    def have(driver: Driver | None, version: str | None = "0.18.0", **rest: Any) -> None:
        install(monkeypatch, driver, version, **rest)

    return have
