"""Checks whether this machine can run LMDeploy. Imports neither LMDeploy nor PyTorch."""

import ctypes
import importlib.metadata

from internvl_server.errors import StartupError

__all__ = ["SUPPORTED_VERSIONS", "check_machine", "count_gpus", "find_problem", "gpu_memory_bytes"]

# The versions the contract tests (tests/lmdeploy) pass on.
SUPPORTED_VERSIONS = ("0.18.0",)

_ON_CPU = "To serve on the CPU instead: internvl-server serve --engine cpu."


def check_machine(num_gpus: int) -> tuple[int, ...]:
    """Refuse a machine without LMDeploy, without an NVIDIA driver, or with too few GPUs. Takes milliseconds.

    Args:
        num_gpus: Number of GPUs of this machine that the settings ask for.

    Returns:
        Memory of each of those GPUs in bytes, in the driver's order; empty if the driver does not report it.

    Raises:
        StartupError: Names what is missing and the alternative.
    """
    if problem := find_problem():
        raise StartupError(f"The TurboMind engine cannot be used: {problem}. {_ON_CPU}")
    if (num_found := count_gpus()) < num_gpus:
        raise StartupError(
            f"engine.turbomind.tp asks for {num_gpus} GPUs of this machine, but the NVIDIA driver shows "
            f"{num_found} (CUDA_VISIBLE_DEVICES may hide others). Lower tp (--tp). {_ON_CPU}"
        )
    return gpu_memory_bytes(num_gpus)


def find_problem() -> str:
    """What this machine lacks to run LMDeploy, as a clause; empty if nothing."""
    if _driver() is None:
        return "no NVIDIA driver was found (libcuda.so.1)"
    if not count_gpus():
        return "the NVIDIA driver shows no GPU"
    known = " or ".join(SUPPORTED_VERSIONS)
    try:
        version = importlib.metadata.version("lmdeploy")
    except importlib.metadata.PackageNotFoundError:
        return f"LMDeploy {known} is not installed (install internvl-server[turbomind])"
    if version not in SUPPORTED_VERSIONS:
        return (
            f"LMDeploy {version} is installed, but this server is tested with {known} "
            "(install internvl-server[turbomind])"
        )
    return ""


def count_gpus() -> int:
    """Number of GPUs the NVIDIA driver shows this process; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def gpu_memory_bytes(num_gpus: int) -> tuple[int, ...]:
    """Memory in bytes of the first GPUs; empty if the driver does not report it."""
    driver = _driver()
    found = []
    for index in range(num_gpus):
        device, size = ctypes.c_int(0), ctypes.c_size_t(0)
        if driver is None or driver.cuDeviceGet(ctypes.byref(device), index):
            return ()
        if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device):
            return ()
        found.append(size.value)
    return tuple(found)


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
