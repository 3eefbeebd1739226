"""The NVIDIA driver, the GPUs, and whether they suit the installed packages and the model.

Where the CPU engine was chosen although there is a driver, what is wrong with the GPUs is only a warning.
"""

import base64
import hashlib
import importlib.metadata
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from internvl_server.doctor.finding import Check, Finding, error, ok, warning
from internvl_server.doctor.subject import Subject
from internvl_server.engine.turbomind.machine.check import (
    check_capability,
    check_devices,
    driver_problem,
)
from internvl_server.engine.turbomind.machine.driver import (
    Gpu,
    count_gpus,
    cuda_version,
    driver_status,
    has_driver,
    read_gpu,
)
from internvl_server.engine.turbomind.machine.packages import lmdeploy_problem
from internvl_server.errors import StartupError
from internvl_server.planner.check import check_settings
from internvl_server.planner.gpus import GIB, gib

__all__ = ["CHECKS"]

_KERNEL_DRIVER = Path("/proc/driver/nvidia")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (it is measured, not written)
_SEE = "server/docs/gpus.md lists the combinations of driver, torch and GPU that work."
_ON_CPU = "Or serve on the CPU: --engine cpu."
_AMPERE = (8, 0)  # the first with bfloat16
_ENOUGH_FREE = 0.9
_DOCKER_LOCKED = 1 << 20  # more than the 64 KiB of old containers, and less than a machine allows
_NCCL_FILE = "nvidia/nccl/lib/libnccl.so.2"
_NCCL_PACKAGE = "nvidia-nccl-cu12"
# Numbers of CUresult, with the causes that NVIDIA documents.
_STATUS: Mapping[int, tuple[str, str]] = {
    34: (
        "libcuda.so.1 is the stub of the CUDA toolkit",
        "Remove the toolkit's folder `stubs` from LD_LIBRARY_PATH.",
    ),
    100: (
        "the driver finds no GPU that this process may use",
        "Look at `nvidia-smi`; CUDA_VISIBLE_DEVICES, or the options of the container, may hide the GPUs.",
    ),
    802: (
        "the NVSwitch of this machine is not set up",
        "Start the service nvidia-fabricmanager, in the version of the driver.",
    ),
    803: (
        "the driver's library and its kernel module have different versions",
        "Restart the machine, or load the module again, after an update of the driver.",
    ),
    804: (
        "the forward-compatibility package does not support this GPU",
        "Remove the package cuda-compat from the library path, and update the driver.",
    ),
    999: (
        "the driver could not be initialised",
        "Look at `dmesg` and `nvidia-smi`. In a container, /dev/nvidia-uvm may be missing: start it with "
        "`--gpus all`.",
    ),
}


def driver(subject: Subject) -> Iterator[Finding]:
    """Whether there is a driver, and whether it works."""
    if not has_driver():
        yield _no_driver(subject)
    elif status := driver_status():
        cause, remedy = _STATUS.get(status, _STATUS[999])
        yield _problem(subject, f"cuInit answers {status}: {cause}.", remedy)
    elif not count_gpus():
        yield _problem(subject, "The NVIDIA driver shows no GPU.", _STATUS[100][1])
    else:
        version = cuda_version()
        name = f"CUDA {version[0]}.{version[1]}" if version else "an unknown CUDA"
        yield ok(f"An NVIDIA driver for {name}, which shows {count_gpus()} GPU(s).")


def versions(subject: Subject) -> Iterator[Finding]:
    """Whether LMDeploy and torch suit the driver."""
    if not count_gpus():
        return
    if problem := lmdeploy_problem() or driver_problem():
        yield _problem(subject, f"{problem[0].upper()}{problem[1:]}.", f"{_SEE} {_ON_CPU}")
    else:
        yield ok("LMDeploy and torch suit the driver.")


def gpus(subject: Subject) -> Iterator[Finding]:
    """Each GPU that the engine would use: compute capability and memory."""
    for index in _used(subject):
        gpu = read_gpu(index) if index < count_gpus() else None
        if gpu is not None:
            yield from _gpu(subject, gpu)
        elif index < count_gpus():
            yield warning(
                f"The driver does not report the memory of GPU {index}.",
                "It cannot be checked whether the model fits; `nvidia-smi` may say more.",
            )


def devices(subject: Subject) -> Iterator[Finding]:
    """Whether there are the GPUs that the settings name."""
    if subject.engine.kind == "turbomind" and count_gpus():
        try:
            check_devices(_used(subject), subject.engine.turbomind)
        except StartupError as err:
            yield error(
                err.message, "`internvl-server models` lists what fits the GPUs that there are."
            )


def memory_plan(subject: Subject) -> Iterator[Finding]:
    """Whether the model fits the GPUs, as the start-up check computes it."""
    if subject.engine.kind != "turbomind" or not count_gpus() or subject.config is None:
        return
    found = [read_gpu(index) for index in _used(subject) if index < count_gpus()]
    memory = [gpu.memory for gpu in found if gpu is not None]
    if not memory or len(memory) < len(_used(subject)):
        return
    try:
        plan = check_settings(subject.settings, memory, subject.config)
    except StartupError as err:
        yield error(err.message, "`internvl-server plan` computes other choices.")
        return
    assert plan is not None
    yield ok(
        f"{plan.model.name} fits: {gib(plan.weight_bytes)} of weights and a cache of {plan.num_tokens:,} "
        f"tokens on each of {plan.deployment.tp} GPU(s)."
    )


def nccl(subject: Subject) -> Iterator[Finding]:
    """Whose libnccl.so.2 is installed: the packages for CUDA 12 and 13 write the same file."""
    if subject.engine.kind != "turbomind":
        return
    hashes = dict(_nccl_hashes())
    if _NCCL_PACKAGE not in hashes or len(hashes) == 1:
        return
    path = importlib.metadata.distribution(_NCCL_PACKAGE).locate_file(_NCCL_FILE)
    try:
        digest = hashlib.sha256(Path(str(path)).read_bytes()).digest()
    except OSError:
        digest = b""
    if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == hashes[_NCCL_PACKAGE]:
        yield ok(f"libnccl.so.2 is that of {_NCCL_PACKAGE}.")
    else:
        yield error(
            f"libnccl.so.2 is missing or not that of {_NCCL_PACKAGE}, which LMDeploy needs.",
            f"pip install --no-deps --force-reinstall {_NCCL_PACKAGE}",
        )


def shared_memory(subject: Subject) -> Iterator[Finding]:
    """What NCCL needs of the system to connect several GPUs: containers have little by default."""
    if subject.engine.kind != "turbomind" or subject.engine.turbomind.tp == 1:
        return
    stat = os.statvfs(_SHARED_MEMORY)
    size, locked = stat.f_frsize * stat.f_blocks, resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if size < GIB:
        yield warning(
            f"{_SHARED_MEMORY} has {size >> 20} MiB, with which NCCL may not start.",
            "Start the container with --shm-size 8g.",
        )
    if locked != resource.RLIM_INFINITY and locked < _DOCKER_LOCKED:
        yield warning(
            f"Only {locked >> 10} KiB of memory can be locked (ulimit -l).",
            "Start the container with --ulimit memlock=-1, or set LimitMEMLOCK=infinity.",
        )


def _problem(subject: Subject, found: str, remedy: str) -> Finding:
    is_needed = subject.engine.kind == "turbomind"
    return error(found, remedy) if is_needed else warning(found, remedy)


def _no_driver(subject: Subject) -> Finding:
    if _KERNEL_DRIVER.exists():
        return _problem(
            subject,
            "The kernel has an NVIDIA driver, but its library libcuda.so.1 is not found.",
            "Start the container with `--gpus all` (NVIDIA Container Toolkit), or install the whole driver.",
        )
    if subject.engine.kind == "turbomind":
        return error("No NVIDIA driver was found (libcuda.so.1).", f"Install one. {_SEE} {_ON_CPU}")
    return ok(f"No NVIDIA driver; the {subject.engine.kind} engine needs none.")


def _used(subject: Subject) -> tuple[int, ...]:
    """The GPUs of the TurboMind engine; all for other engines."""
    settings = subject.engine.turbomind
    if subject.engine.kind != "turbomind":
        return tuple(range(count_gpus()))
    return settings.devices or tuple(range(settings.tp))


def _gpu(subject: Subject, gpu: Gpu) -> Iterator[Finding]:
    memory, (major, minor) = gpu.memory, gpu.capability
    name = f"GPU {gpu.index}"
    try:
        check_capability(gpu)
    except StartupError as err:
        yield _problem(subject, err.message, _ON_CPU)
        return
    yield ok(
        f"{name}: compute capability {major}.{minor}, {gib(memory.total_bytes)}, of which "
        f"{gib(memory.free_bytes)} are free."
    )
    if gpu.capability < _AMPERE and subject.engine.turbomind.dtype != "float16":
        yield warning(
            f"{name} has no bfloat16, the type of InternVL's weights.", "Set --dtype float16."
        )
    if memory.free_bytes < _ENOUGH_FREE * memory.total_bytes:
        used = memory.total_bytes - memory.free_bytes
        yield warning(
            f"Other programs use {gib(used)} of {name}.",
            "`nvidia-smi` lists them. End them, or choose other GPUs with engine.turbomind.devices.",
        )


def _nccl_hashes() -> Iterator[tuple[str, str]]:
    """The packages that install libnccl.so.2, with the hash of theirs."""
    for name in (_NCCL_PACKAGE, "nvidia-nccl-cu13"):
        try:
            files = importlib.metadata.distribution(name).files or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if str(file) == _NCCL_FILE and file.hash is not None:
                yield name, file.hash.value


CHECKS: tuple[Check, ...] = (
    driver,
    versions,
    devices,
    gpus,
    memory_plan,
    nccl,
    shared_memory,
)
