"""A stand-in for the NVIDIA driver, for tests on machines without one."""

import ctypes
import importlib.metadata
from typing import Any

import pytest

Version = tuple[int, int]


class Driver:
    """The functions of libcuda that the server calls. GPU n has n + 1 GiB of memory unless told otherwise."""

    def __init__(
        self,
        num_gpus: int,
        status: int = 0,
        *,
        cuda: Version = (13, 0),
        capability: Version = (8, 0),
        sizes: tuple[int, int] | None = None,
    ) -> None:
        self._num_gpus, self._status = num_gpus, status
        self._cuda, self._capability = cuda, capability
        self._sizes = sizes  # total and free bytes of every GPU
        self.contexts = 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._status

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self._cuda[0] * 1000 + self._cuda[1] * 10
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._num_gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self._capability[number - 75]
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:  # noqa: N802
        size._obj.value = self._sizes[0] if self._sizes else (device.value + 1) << 30
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        self.contexts += 1
        return 0 if self._sizes else 999

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:  # noqa: N802
        self.contexts -= 1
        return 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        total._obj.value, free._obj.value = self._sizes or (0, 0)
        return 0


class Nvml:
    """The functions of libnvidia-ml that the server calls. GPU n has the bus id of a `Driver`'s GPU n."""

    def __init__(self, total: int, free: int) -> None:
        self._total, self._free = total, free

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, name: Any, handle: Any) -> int:  # noqa: N802
        return 0 if name.value == b"0000:00:00.0" else 1

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        memory._obj.total, memory._obj.free = self._total, self._free
        return 0


class DriverOnBus(Driver):
    """A driver that names the place of its GPU, as `Nvml` does."""

    def cuDeviceGetPCIBusId(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = b"0000:00:00.0"
        return 0


def install(
    monkeypatch: pytest.MonkeyPatch,
    driver: Driver | None,
    version: str | None,
    *,
    torch_cuda: Version | None = (13, 0),
    nvml: Nvml | None = None,
) -> None:
    """Give this machine a driver, a version of LMDeploy and a build of torch; None means that it has none."""
    libraries = {"libcuda.so.1": driver, "libnvidia-ml.so.1": nvml}

    real_load = ctypes.CDLL

    def load(name: str | None, **options: Any) -> Any:
        if name is None:  # the C library
            return real_load(name, **options)
        if libraries.get(name) is None:
            raise OSError(name)
        return libraries[name]

    def find(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(importlib.metadata, "version", find)
    checks = "internvl_server.engine.turbomind.machine.check"
    monkeypatch.setattr(f"{checks}.torch_cuda", lambda: torch_cuda)
