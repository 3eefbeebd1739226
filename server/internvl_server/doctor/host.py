"""What the machine gives the server: memory, files, threads, folders, and confined processes."""

import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from internvl_server.concurrency.memory import available_bytes
from internvl_server.doctor.finding import Check, Finding, error, ok, warning
from internvl_server.doctor.subject import Subject
from internvl_server.media import preparer, video_preparer
from internvl_server.media.tiling import TILE_PX
from internvl_server.media.types import VIDEO
from internvl_server.media.workers.answers import WorkerLostError
from internvl_server.media.workers.buffers import Buffers
from internvl_server.media.workers.process import WorkerProcess, WorkerSpec
from internvl_server.planner.gpus import GIB, gib
from internvl_server.planner.models import find_model
from internvl_server.planner.sizes import CpuType, cpu_bytes, file_bytes
from internvl_server.settings import Settings

__all__ = ["CHECKS"]

_GPU_ENGINE_BYTES = (
    4 * GIB
)  # of main memory, LMDeploy and the compilers of grammars included: estimate
_OTHER_BYTES = GIB // 2  # the echo engine: estimate
_ENOUGH_PROCESSES = 512  # threads count, and each library has some
_PIDS_LIMIT = Path("/sys/fs/cgroup/pids.max")


def memory(subject: Subject) -> Iterator[Finding]:
    """Whether model and requests fit the memory that can still be taken, control groups included."""
    available, needed = available_bytes(), _engine_bytes(subject)
    if available is None or needed is None:
        return
    requests = _request_bytes(subject.settings)
    found = f"{gib(available)} of memory can be taken; the engine needs about {gib(needed)}"
    if needed > available:
        yield error(f"{found}.", "Choose a smaller model, or --dtype bfloat16 on the CPU.")
    elif needed + requests > available:
        yield warning(
            f"{found}, and requests up to {gib(requests)} if they reach all limits.",
            "Lower limits.max_tiles_in_flight, limits.max_fetched_bytes_in_flight or media.cache_bytes.",
        )
    else:
        yield ok(f"{found}, and requests at most {gib(requests)}.")


def open_files(subject: Subject) -> Iterator[Finding]:
    """Whether the system allows as many open files as connections may need."""
    hard, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[1], subject.settings.limits.num_files
    if hard == resource.RLIM_INFINITY or hard >= needed:
        yield ok(f"{needed:,} files can be open at the same time.")
    else:
        yield warning(
            f"{hard:,} files can be open at the same time; all connections may need {needed:,}.",
            "Raise the hard limit (LimitNOFILE= of systemd, --ulimit nofile= of Docker), or lower "
            "limits.max_connections.",
        )


def processes(_: Subject) -> Iterator[Finding]:
    """Whether the system allows enough processes and threads."""
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0]]
    with suppress(OSError, ValueError):  # not there, or "max"
        limits.append(int(_PIDS_LIMIT.read_text()))
    least = min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)
    if least is not None and least < _ENOUGH_PROCESSES:
        yield warning(
            f"Only {least} processes and threads are allowed.",
            f"Allow {_ENOUGH_PROCESSES} (ulimit -u, --pids-limit of Docker, TasksMax= of systemd).",
        )


def temporary_folder(_: Subject) -> Iterator[Finding]:
    """Whether libraries can write temporary files."""
    try:
        with tempfile.TemporaryFile():
            yield ok(f"{tempfile.gettempdir()} can be written.")
    except OSError as err:
        yield warning(
            f"There is no folder for temporary files: {err}.",
            "Set TMPDIR to one that can be written; in a read-only container mount a tmpfs on it.",
        )


def download_folder(subject: Subject) -> Iterator[Finding]:
    """Whether a model that must be downloaded can be kept."""
    model = subject.settings.model
    if subject.folder is not None or Path(model.path).is_absolute():
        return
    folder = Path(model.download_dir or _hub_cache())
    parent = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    try:
        with tempfile.TemporaryFile(dir=parent):
            free = shutil.disk_usage(parent).free
    except OSError as err:
        yield error(
            f"Downloads cannot be kept in {folder}: {err.strerror}.",
            "Set model.download_dir to a folder that can be written.",
        )
        return
    known = find_model(model.path)
    if known is not None and file_bytes(known) > free:
        yield error(
            f"{folder} has {gib(free)} of free space; the model takes {gib(file_bytes(known))}.",
            "Set model.download_dir to a folder on a larger disk.",
        )
    else:
        yield ok(f"{folder} can be written, and has {gib(free)} of free space.")


def image_processes(subject: Subject) -> Iterator[Finding]:
    """Whether the processes that decode images start, and are confined."""
    checkpoint, media = subject.checkpoint, subject.settings.media
    tile_px = TILE_PX if checkpoint is None else checkpoint.tile_px
    yield _started("images", preparer.worker_spec(media, tile_px))


def video_processes(subject: Subject) -> Iterator[Finding]:
    """Whether the processes that decode videos start, and are confined."""
    yield _started("videos", video_preparer.worker_spec(subject.settings.media, TILE_PX))


def _started(kind: str, spec: WorkerSpec) -> Finding:
    try:
        with closing(WorkerProcess(spec, Buffers(), has_ffmpeg=spec.kind is VIDEO)) as worker:
            worker.wait_ready()
            unfiltered = worker.unfiltered
    except (OSError, WorkerLostError) as err:
        return error(
            f"The processes that decode {kind} do not start: {err or type(err).__name__}.",
            "Allow more memory and processes; server/docs/confinement.md says what they do.",
        )
    if unfiltered:
        return warning(
            f"The system calls of processes that decode {kind} are not filtered: {unfiltered}.",
            "Allow seccomp in the container; server/docs/confinement.md says what is lost.",
        )
    return ok(f"Processes that decode {kind} start, and are confined by limits and seccomp.")


def _engine_bytes(subject: Subject) -> int | None:
    if subject.engine.kind == "turbomind":
        return _GPU_ENGINE_BYTES
    if subject.engine.kind == "echo":
        return _OTHER_BYTES
    if subject.config is None:
        return None
    return cpu_bytes(subject.config, _cpu_type(subject), subject.engine.cpu)


def _cpu_type(subject: Subject) -> CpuType:
    settings = subject.engine.cpu
    if settings.quantization == "int8":
        return "int8"
    return "float32" if settings.dtype == "float32" else "bfloat16"


def _request_bytes(settings: Settings) -> int:
    """The most that all requests take, as server/docs/deployment.md lists it."""
    limits, media = settings.limits, settings.media
    return (
        3 * limits.max_body_bytes_in_flight
        + limits.max_fetched_bytes_in_flight
        + limits.max_tiles_in_flight * 3 * TILE_PX**2 * 2  # bytes
        + media.max_videos_in_flight * media.max_video_bytes
        + media.cache_bytes
    )


def _hub_cache() -> str:
    # The library reads the variables for it when it is imported.
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415

    return str(HF_HUB_CACHE)


CHECKS: tuple[Check, ...] = (
    memory,
    open_files,
    processes,
    temporary_folder,
    download_folder,
    image_processes,
    video_processes,
)
