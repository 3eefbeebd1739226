"""A stand-in for the NVIDIA driver, for tests on machines without one."""

import ctypes
import importlib.metadata
from typing import Any

import pytest


class Driver:
    """The functions of libcuda that the server calls. GPU n has n + 1 GiB of memory."""

    def __init__(self, num_gpus: int, status: int = 0) -> None:
        self._num_gpus, self._status = num_gpus, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._num_gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:  # noqa: N802
        size._obj.value = (device.value + 1) << 30
        return 0


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver | None, version: str | None) -> None:
    """Give this machine a driver, and a version of LMDeploy; None means that it has none."""

    def load(name: str) -> Driver:
        if driver is None:
            raise OSError(name)
        return driver

    def find(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(importlib.metadata, "version", find)
