"""Refuses machines that cannot run LMDeploy, in milliseconds and before anything is downloaded."""

from collections.abc import Sequence

from internvl_server.engine.turbomind.machine.driver import (
    CudaVersion,
    Gpu,
    count_gpus,
    cuda_version,
    has_driver,
    read_gpu,
)
from internvl_server.engine.turbomind.machine.packages import (
    SUPPORTED_VERSIONS,
    lmdeploy_problem,
    torch_cuda,
)
from internvl_server.errors import StartupError
from internvl_server.planner.gpus import GpuMemory
from internvl_server.settings import TurbomindSettings

__all__ = [
    "SUPPORTED_VERSIONS",
    "check_capability",
    "check_devices",
    "check_machine",
    "driver_problem",
    "find_problem",
]

_ON_CPU = "To serve on the CPU instead: internvl-server serve --engine cpu."
_INSTALL = "server/docs/gpus.md has the combinations of driver, torch and GPU that work."

# LMDeploy's native module calls cuMulticastCreate, which is new in this version. Apart from such functions,
# programs for CUDA 12 run on every driver for CUDA 12 (NVIDIA's minor version compatibility).
_LMDEPLOY_CUDA = (12, 1)
_DRIVERS = {(12, 1): "530", (13, 0): "580"}  # first driver branch for a CUDA version
# Builds of torch for CUDA 13 have no kernels for Volta, and those before CUDA 12.8 none for Blackwell.
_VOLTA, _TURING, _BLACKWELL = (7, 0), (7, 5), (10, 0)
_BLACKWELL_CUDA = (12, 8)


def check_machine(settings: TurbomindSettings) -> tuple[GpuMemory, ...]:
    """Refuse a machine without LMDeploy, or whose driver or GPUs do not suit the installed packages.

    Returns:
        Memory of each GPU that the settings use; empty if the driver does not report it.

    Raises:
        StartupError: Names what is missing, with the numbers, and the alternative.
    """
    if problem := find_problem() or driver_problem():
        raise StartupError(f"The TurboMind engine cannot be used: {problem}. {_ON_CPU}")
    used = settings.devices or range(settings.tp)
    check_devices(used, settings)
    gpus = [gpu for gpu in map(read_gpu, used) if gpu is not None]
    for gpu in gpus:
        check_capability(gpu)
    return tuple(gpu.memory for gpu in gpus) if len(gpus) == len(used) else ()


def find_problem() -> str:
    """What this machine lacks to run LMDeploy, as a clause; empty if nothing."""
    if not has_driver():
        return "no NVIDIA driver was found (libcuda.so.1)"
    if not count_gpus():
        return "the NVIDIA driver shows no GPU"
    return lmdeploy_problem()


def driver_problem() -> str:
    """What is wrong between the driver and the installed packages, as a clause; empty if nothing."""
    built_for, driver = torch_cuda(), cuda_version()
    if built_for is None:
        return f"the installed torch is not a build for CUDA. {_INSTALL[:-1]}"
    needed = max(_LMDEPLOY_CUDA, (built_for[0], 0))
    if driver is None or driver >= needed:
        return ""
    release = _DRIVERS.get(needed, "")
    return (
        f"the NVIDIA driver supports CUDA {_dotted(driver)}, but torch for CUDA {_dotted(built_for)} and "
        f"LMDeploy {' or '.join(SUPPORTED_VERSIONS)} need CUDA {_dotted(needed)} or newer"
        f"{f' (driver {release})' if release else ''}. Update the driver, or install torch for an older "
        f"CUDA: {_INSTALL[:-1]}"
    )


def check_devices(used: Sequence[int], settings: TurbomindSettings) -> None:
    """Refuse GPUs that the driver does not show.

    Raises:
        StartupError: Names the first one, or the number.
    """
    num_found = count_gpus()
    if settings.devices and max(used) >= num_found:
        raise StartupError(
            f"engine.turbomind.devices names GPU {max(used)}, but the NVIDIA driver shows {num_found}, "
            f"numbered from 0 (CUDA_VISIBLE_DEVICES may hide others). {_ON_CPU}"
        )
    if len(used) > num_found:
        raise StartupError(
            f"engine.turbomind.tp asks for {len(used)} GPUs of this machine, but the NVIDIA driver shows "
            f"{num_found} (CUDA_VISIBLE_DEVICES may hide others). Lower tp (--tp). {_ON_CPU}"
        )


def check_capability(gpu: Gpu) -> None:
    """Refuse a GPU for which the installed packages have no kernels.

    Raises:
        StartupError: Names its compute capability and the one that is needed.
    """
    built_for = torch_cuda() or _LMDEPLOY_CUDA
    needed = _TURING if built_for[0] > _LMDEPLOY_CUDA[0] else _VOLTA
    found = f"GPU {gpu.index} has compute capability {_dotted(gpu.capability)}"
    if (0, 0) < gpu.capability < needed:
        raise StartupError(
            f"{found}, but LMDeploy with torch for CUDA {_dotted(built_for)} needs {_dotted(needed)} or "
            f"newer. {_INSTALL} {_ON_CPU}"
        )
    if gpu.capability >= _BLACKWELL and built_for < _BLACKWELL_CUDA:
        raise StartupError(
            f"{found}, for which torch must be built for CUDA {_dotted(_BLACKWELL_CUDA)} or newer; the "
            f"installed one is for {_dotted(built_for)}. {_INSTALL}"
        )


def _dotted(version: CudaVersion) -> str:
    return f"{version[0]}.{version[1]}"
