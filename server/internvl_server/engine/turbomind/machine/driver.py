"""Reads the NVIDIA driver's version and GPUs through ctypes. Creates a CUDA context only if it must."""

import ctypes
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from internvl_server.planner.gpus import GpuMemory

__all__ = [
    "CudaVersion",
    "Gpu",
    "count_gpus",
    "cuda_version",
    "driver_status",
    "has_driver",
    "read_gpu",
]

CudaVersion: TypeAlias = tuple[int, int]  # major, minor

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
# NVML reports a whole card where the driver shows a slice of it (MIG). Totals differ slightly otherwise.
_SAME_CARD = 1.25


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its index in the driver's order, with its compute capability and memory."""

    index: int
    capability: tuple[int, int]
    memory: GpuMemory


class _NvmlMemory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def has_driver() -> bool:
    """Whether the driver's library is present."""
    return _library("libcuda.so.1") is not None


def cuda_version() -> CudaVersion | None:
    """The newest CUDA version that the driver supports; None if it does not say."""
    version = ctypes.c_int(0)
    if not _call(_library("libcuda.so.1"), "cuDriverGetVersion", ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10


def driver_status() -> int:
    """What the driver says when it is initialised: 0, or the number of a CUresult; -1 without a driver."""
    cuda = _library("libcuda.so.1")
    return -1 if cuda is None else int(cuda.cuInit(0))


def count_gpus() -> int:
    """Number of GPUs the driver shows this process; 0 without a driver."""
    cuda, count = _library("libcuda.so.1"), ctypes.c_int(0)
    found = _call(cuda, "cuInit", 0) and _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    return count.value if found else 0


def read_gpu(index: int) -> Gpu | None:
    """What the driver says about one GPU; None if it does not report the memory."""
    cuda, device, total = _library("libcuda.so.1"), ctypes.c_int(0), ctypes.c_size_t(0)
    if not (
        _call(cuda, "cuDeviceGet", ctypes.byref(device), index)
        and _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(total), device)
    ):
        return None
    free = _free_by_nvml(cuda, device, total.value)
    if free is None:
        free = _free_by_cuda(cuda, device)
    memory = GpuMemory(total.value, total.value if free is None else min(free, total.value))
    return Gpu(index, (_attribute(cuda, device, _MAJOR), _attribute(cuda, device, _MINOR)), memory)


def _attribute(cuda: Any, device: ctypes.c_int, number: int) -> int:  # noqa: ANN401
    value = ctypes.c_int(0)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value


def _free_by_nvml(cuda: Any, device: ctypes.c_int, total: int) -> int | None:  # noqa: ANN401
    """Free bytes by the management library, which takes no memory on the GPU itself."""
    nvml, name, handle = _library("libnvidia-ml.so.1"), (ctypes.c_char * 32)(), ctypes.c_void_p()
    memory = _NvmlMemory()
    found = (
        _call(cuda, "cuDeviceGetPCIBusId", name, len(name), device)
        and _call(nvml, "nvmlInit_v2")
        and _call(nvml, "nvmlDeviceGetHandleByPciBusId_v2", name, ctypes.byref(handle))
        and _call(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    )
    return int(memory.free) if found and memory.total <= _SAME_CARD * total else None


def _free_by_cuda(cuda: Any, device: ctypes.c_int) -> int | None:  # noqa: ANN401
    """Free bytes as a CUDA program sees them: without the few hundred MB that it takes itself."""
    call, context, free, total = (
        partial(_call, cuda), ctypes.c_void_p(), ctypes.c_size_t(0), ctypes.c_size_t(0),
    )  # fmt: skip
    if not call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device):
        return None
    found = (
        call("cuCtxPushCurrent_v2", context)
        and call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        and call("cuCtxPopCurrent_v2", ctypes.byref(context))
    )
    call("cuDevicePrimaryCtxRelease_v2", device)
    return free.value if found else None


def _library(name: str) -> Any:  # noqa: ANN401
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _call(library: Any, name: str, *arguments: Any) -> bool:  # noqa: ANN401
    """Call a function of a library if both exist. Returns whether it succeeded."""
    function = getattr(library, name, None)
    return function is not None and function(*arguments) == 0
