"""Whether this machine can run LMDeploy at all: asked before anything is imported or downloaded."""

import ctypes
import importlib.metadata

from internvl_server.errors import StartupError

__all__ = ["SUPPORTED_VERSIONS", "check_machine", "count_gpus", "gpu_memory_bytes"]

# Those the contract tests (tests/lmdeploy) pass on.
SUPPORTED_VERSIONS = ("0.18.0",)

_ON_CPU = "To serve on the CPU instead: internvl-server serve --engine cpu."


def check_machine(num_gpus: int) -> tuple[int, ...]:
    """Refuse a machine without LMDeploy, without an NVIDIA driver, or with too few GPUs. Takes milliseconds.

    Args:
        num_gpus: GPUs of this machine the settings ask for.

    Returns:
        Memory of each of those GPUs in bytes, in the driver's order; nothing where it does not tell.

    Raises:
        StartupError: Says what is missing and names the alternative.
    """
    num_found = count_gpus()
    _check_package()
    if num_found < num_gpus:
        raise StartupError(
            f"engine.turbomind.tp asks for {num_gpus} GPUs of this machine; the driver shows {num_found} "
            f"(CUDA_VISIBLE_DEVICES hides others). Lower tp. {_ON_CPU}"
        )
    return gpu_memory_bytes(num_gpus)


def gpu_memory_bytes(num_gpus: int) -> tuple[int, ...]:
    """Memory of the first GPUs, or nothing when the driver does not tell."""
    driver = ctypes.CDLL("libcuda.so.1")
    found = []
    for index in range(num_gpus):
        device, size = ctypes.c_int(0), ctypes.c_size_t(0)
        if driver.cuDeviceGet(ctypes.byref(device), index):
            return ()
        if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device):
            return ()
        found.append(size.value)
    return tuple(found)


def _check_package() -> None:
    known = " or ".join(SUPPORTED_VERSIONS)
    try:
        version = importlib.metadata.version("lmdeploy")
    except importlib.metadata.PackageNotFoundError:
        raise StartupError(
            f"The turbomind engine needs LMDeploy {known}: install internvl-server[turbomind]. {_ON_CPU}"
        ) from None
    if version not in SUPPORTED_VERSIONS:
        raise StartupError(
            f"LMDeploy {version} is installed; this server is tested with {known}. "
            "Install internvl-server[turbomind]."
        )


def count_gpus() -> int:
    """GPUs the NVIDIA driver shows this process.

    Raises:
        StartupError: There is no driver, or it shows none.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise StartupError(
            "The turbomind engine needs an NVIDIA GPU, and this machine has no NVIDIA driver "
            f"(libcuda.so.1 cannot be loaded). {_ON_CPU}"
        ) from None
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise StartupError(
            f"The turbomind engine needs an NVIDIA GPU; the driver of this machine shows none. {_ON_CPU}"
        )
    return count.value
