"""The parent's side of one decode worker: its process, its pipe and its shared memory.

The process is started as a separate program, not by multiprocessing: a child of multiprocessing would
re-import the server's main module with the whole server, and inherit the environment with its keys.
"""

import json
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from internvl_server.concurrency.confinement.rules import rules_for
from internvl_server.concurrency.programs import import_environment
from internvl_server.core import PixelType, PixelValues
from internvl_server.media.decoding.image import DecodeLimits
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.sources.data_url import max_text_chars
from internvl_server.media.types import IMAGE, MediaType
from internvl_server.media.workers.answers import (
    JobLimitError,
    NoFFmpegError,
    WorkerLostError,
    as_lost,
    error_of,
)
from internvl_server.media.workers.buffers import Buffers

__all__ = ["Result", "WorkerProcess", "WorkerSpec"]

START_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 4096
# The share of a job's time that may be processor time. What takes longer is the fault of the image; what does
# not end in time without it, that of the machine.
CPU_SHARE = 0.5
# Variables of Pillow and of the C library: memory of one image serves the next, because the first write to a
# fresh page is expensive.
KEEP_MEMORY = {
    "PILLOW_BLOCKS_MAX": "4",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
# How long the pipe of a process is closed before the process has ended, at most.
_DEATH_S = 0.2
# After a job with a larger input, its memory is returned to the system.
KEPT_INPUT_BYTES = 16 << 20

Result: TypeAlias = tuple[dict[str, Any], PixelValues | None]


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How every worker of a pool is started.

    Attributes:
        limits: What the decoder refuses.
        tile_px: Side of a tile in pixels.
        max_tiles: Most tiles of one image, thumbnail included, or of one video.
        max_input_bytes: Most bytes of one encoded image or video; its base64 text may be longer.
        kind: Whether the workers decode images or videos.
        program: The module that is run.
    """

    limits: DecodeLimits
    tile_px: int
    max_tiles: int
    max_input_bytes: int
    kind: MediaType = IMAGE
    program: str = "internvl_server.media.workers.image_worker"

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile of the longest pixel type."""
        return self.tile_px * self.tile_px * 3 * PixelType.FLOAT32.storage.itemsize

    @property
    def output_offset(self) -> int:
        """Offset of the tiles in the shared memory, at a page boundary."""
        return -(-max_text_chars(self.max_input_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def memory_bytes(self) -> int:
        """Size of the shared memory, whose pages are allocated when they are first written."""
        return self.output_offset + self.max_tiles * self.tile_bytes

    @property
    def max_memory_bytes(self) -> int:
        """Limit of a worker's address space: Python, its libraries and the largest image.

        The most that was measured is 21 bytes per pixel, for WebP with transparency.
        """
        return (384 << 20) + 2 * self.memory_bytes + 24 * self.limits.max_pixels


class WorkerProcess:
    """One process with its pipe and its shared memory; used by one thread at a time.

    `is_busy` is set while the process starts or runs a job. It stays set if that did not end as expected.

    Args:
        spec: How it is started.
        buffers: Memory for its results.
        has_ffmpeg: Whether it can decode HEIC, or is a worker for videos.
    """

    def __init__(self, spec: WorkerSpec, buffers: Buffers, *, has_ffmpeg: bool) -> None:
        self._spec = spec
        self._buffers = buffers
        self._has_ffmpeg = has_ffmpeg
        self.unfiltered = ""
        self.is_busy = True
        self._pipe, child_pipe = multiprocessing.Pipe()
        memory_fd = os.memfd_create("tiles")
        try:
            os.ftruncate(memory_fd, spec.memory_bytes)
            self._memory = mmap.mmap(memory_fd, spec.memory_bytes)
            self._process = self._launch(child_pipe.fileno(), memory_fd)
        finally:
            os.close(memory_fd)
            child_pipe.close()

    def _launch(self, pipe_fd: int, memory_fd: int) -> subprocess.Popen[bytes]:
        spec = self._spec
        config = {
            "pipe_fd": pipe_fd,
            "memory_fd": memory_fd,
            "memory_bytes": spec.memory_bytes,
            "output_offset": spec.output_offset,
            "max_memory_bytes": spec.max_memory_bytes,
            "max_input_bytes": spec.max_input_bytes,
            "tile_px": spec.tile_px,
            "has_ffmpeg": self._has_ffmpeg,
            "limits": asdict(spec.limits),
        }
        return subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            [sys.executable, "-P", "-m", spec.program, json.dumps(config)],
            env={**import_environment(), **KEEP_MEMORY},
            pass_fds=(pipe_fd, memory_fd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Wait until the process has imported what it needs, and is confined.

        Afterwards, `unfiltered` says why its system calls are not filtered, if they are not.

        Raises:
            TimeoutError, WorkerLostError: It does not start.
        """
        with as_lost():
            self._pipe.send_bytes(rules_for(has_threads=self._has_ffmpeg))  # FFmpeg's own threads
            self.unfiltered = str(self._receive(START_TIMEOUT_S)["unfiltered"])
        self.is_busy = False

    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process; a thread that waits for its answer gets EOFError."""
        self._process.kill()

    def close(self) -> None:
        """End the process, if it has not ended, and release its pipe and memory."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        with suppress(
            BufferError
        ):  # a traceback may still refer to the memory, which is freed with it
            self._memory.close()

    def run(
        self,
        media: EncodedMedia,
        job: dict[str, Any],
        count: Callable[[dict[str, Any]], int],
        timeout_s: float,
    ) -> Result:
        """Run one job.

        Args:
            media: The image or video.
            job: Further members of the job, which the program defines.
            count: Validates the answer, which is not trusted, and returns its number of tiles.
            timeout_s: Seconds the job may take.

        Raises:
            ImageError, VideoError: The worker reports that the image or video cannot be used.
            JobLimitError: It took too long.
            NoFFmpegError: It is a HEIC image, and the worker was started without FFmpeg.
            TimeoutError: The worker did not answer in time, although it had not computed for long.
            WorkerLostError: The worker died, or its answer is invalid.
        """
        self.is_busy = True
        try:
            with as_lost():
                answer, pixels = self._run(
                    media, job | {"cpu_s": CPU_SHARE * timeout_s}, count, timeout_s
                )
        except WorkerLostError:
            if self._ended_by() == -signal.SIGPROF:
                raise JobLimitError from None
            raise
        self.is_busy = False
        return answer, pixels

    def _run(
        self,
        media: EncodedMedia,
        job: dict[str, Any],
        count: Callable[[dict[str, Any]], int],
        timeout_s: float,
    ) -> Result:
        data = media.data
        self._memory[: len(data)] = data
        job |= {"num_bytes": len(data), "is_base64": media.is_base64}
        self._pipe.send_bytes(json.dumps(job).encode())
        answer = self._receive(timeout_s)
        if len(data) > KEPT_INPUT_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE, 0, self._spec.output_offset)
        if "needs_ffmpeg" in answer and not self._has_ffmpeg:
            raise NoFFmpegError
        if "error" in answer:
            error = error_of(self._spec.kind, answer)
            self.is_busy = False
            try:
                raise error
            finally:
                del error  # it refers to this frame, which has the file
        num_tiles = count(answer)
        return answer, self._copy_tiles(num_tiles, job["pixel_type"]) if num_tiles else None

    def _ended_by(self) -> int | None:
        """The exit status of the process, which is dying; None if it does not end."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_DEATH_S)
        return None

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        if not self._pipe.poll(timeout_s):
            raise TimeoutError
        answer = json.loads(self._pipe.recv_bytes(MAX_ANSWER_BYTES))
        if not isinstance(answer, dict):
            raise TypeError
        return answer

    def _copy_tiles(self, num_tiles: int, pixel_type: PixelType) -> PixelValues:
        """Copy the tiles out of the shared memory, to which the worker can write at any time."""
        spec = self._spec
        if num_tiles > spec.max_tiles:
            raise ValueError
        shape = (num_tiles, 3, spec.tile_px, spec.tile_px)
        return self._buffers.copy(
            np.ndarray(shape, pixel_type.storage, self._memory, spec.output_offset)
        )
