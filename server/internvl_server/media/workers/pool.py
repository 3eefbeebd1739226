"""A pool of processes that decode and tile, so that a crafted file can at most kill one of them.

Each process has its own pipe, its own shared memory and a thread of the parent that waits for it.
Processes share nothing, so one that dies or hangs, at any moment, fails only its own image.
(`concurrent.futures` breaks the whole pool when one process dies; pebble's workers share one pipe and
two locks: a death under a lock stalls all of them, the death of an idle one breaks the pool.)
"""

import asyncio
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from internvl_server.core import ImageTiles
from internvl_server.errors import EngineUnavailableError, StartupError
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.fingerprint import fingerprint, frame_fingerprints
from internvl_server.media.pixels.tiler import PixelFormat
from internvl_server.media.workers.buffers import Buffers
from internvl_server.media.workers.process import (
    Result,
    WorkerProcess,
    WorkerSpec,
    count_grid,
    read_pair,
)

__all__ = ["DecodePool"]

T = TypeVar("T")


class DecodePool:
    """Processes that turn encoded images, or encoded videos, into tiles.

    Call `start` before use and `close` after. When a call is cancelled its worker finishes and the result
    is dropped.

    Args:
        spec: How workers are started.
        num_workers: Number of processes, and of threads that wait for them.
        timeout_s: Seconds a job may take.
        pixel_format: Called by each job for the format of its results.
        starts_on_demand: Start each process with its first job instead of in `start`.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        num_workers: int,
        timeout_s: float,
        pixel_format: Callable[[], PixelFormat] = PixelFormat,
        starts_on_demand: bool = False,
    ) -> None:
        self._spec = spec
        self._buffers = Buffers()
        self._pixel_format = pixel_format
        self._starts_on_demand = starts_on_demand
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._idle: queue.SimpleQueue[WorkerProcess | None] = queue.SimpleQueue()
        self._workers: set[WorkerProcess] = set()
        self._is_running = False
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    async def start(self) -> None:
        """Accept jobs; unless they start on demand, start all workers and wait until they are ready.

        Raises:
            StartupError: A worker cannot be started.
        """
        self._is_running = True
        if self._starts_on_demand:
            for _ in range(self._num_workers):
                self._idle.put(None)
            return
        loop = asyncio.get_running_loop()
        starts = [
            loop.run_in_executor(self._threads, self._start_worker)
            for _ in range(self._num_workers)
        ]
        workers: Sequence[WorkerProcess | None] = [None] * self._num_workers
        try:
            workers = await asyncio.gather(*starts)
        except (OSError, EOFError) as err:
            raise StartupError("The image decoding processes cannot be started.") from err
        finally:  # also when cancelled: a job accepted meanwhile must not wait forever
            self._is_running = self._is_running and None not in workers
            for worker in workers:
                self._idle.put(worker)

    async def close(self) -> None:
        """End all workers; running calls fail with `EngineUnavailableError`."""
        self._is_running = False
        for worker in tuple(self._workers):
            worker.kill()
        await asyncio.to_thread(self._threads.shutdown)
        for worker in tuple(self._workers):
            self._close(worker)

    async def read_size(self, image: EncodedMedia) -> tuple[int, int]:
        """Width and height of the upright image. Raises the errors of `tile`."""
        job = partial(self._run_blocking, image, {"max_tiles": None}, _no_tiles)
        answer, _ = await self._on_thread(job)
        return read_pair(answer["size"])

    async def tile(self, image: EncodedMedia, *, max_tiles: int) -> ImageTiles:
        """Decode an image and cut it into tiles.

        Args:
            image: The encoded image, at most `max_input_bytes`.
            max_tiles: Upper bound without the thumbnail; at most the pool's `max_tiles` with it.

        Raises:
            ImageError: The image cannot be used, took too long, or killed its worker.
            EngineUnavailableError: The pool is not started or is being closed.
        """
        return await self._on_thread(partial(self._tile_blocking, image, max_tiles))

    async def frames(self, video: EncodedMedia, *, num_frames: int) -> tuple[ImageTiles, ...]:
        """Sample frames of a video and scale each to one tile; needs a pool of video workers.

        Args:
            video: The encoded video, at most `max_input_bytes`.
            num_frames: At most the pool's `max_tiles`.

        Raises:
            VideoError: The video cannot be used, took too long, or killed its worker.
            EngineUnavailableError: The pool is not started or is being closed.
        """
        return await self._on_thread(partial(self._frames_blocking, video, num_frames))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if not self._is_running:
            raise _not_running()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _tile_blocking(self, image: EncodedMedia, max_tiles: int) -> ImageTiles:
        count = partial(count_grid, max_tiles=max_tiles)
        form = self._pixel_format()
        job = {"max_tiles": max_tiles, "pixel_type": form.type, "is_fast": form.is_fast}
        answer, pixels = self._run_blocking(image, job, count)
        assert pixels is not None
        grid = read_pair(answer["grid"])
        return ImageTiles(
            pixels=pixels,
            grid=grid,
            size=read_pair(answer["size"]),
            fingerprint=fingerprint(image, grid, self._spec.tile_px, form),
        )

    def _frames_blocking(self, video: EncodedMedia, num_frames: int) -> tuple[ImageTiles, ...]:
        form = self._pixel_format()
        job = {"num_frames": num_frames, "pixel_type": form.type, "is_fast": form.is_fast}
        answer, pixels = self._run_blocking(video, job, lambda _: num_frames)
        assert pixels is not None
        size = read_pair(answer["size"])
        keys = frame_fingerprints(video, num_frames, self._spec.tile_px, form)
        return tuple(
            ImageTiles(pixels=pixels[index : index + 1], grid=(1, 1), size=size, fingerprint=key)
            for index, key in enumerate(keys)
        )

    def _run_blocking(
        self, media: EncodedMedia, job: dict[str, Any], count: Callable[[dict[str, Any]], int]
    ) -> Result:
        kind = self._spec.kind
        worker = self._idle.get()  # never waits: there are as many threads as workers
        try:
            worker = self._ensure_alive(worker)
            return worker.run(media, job, count, self._timeout_s)
        except TimeoutError:
            raise kind.decode_error(f"The {kind.label} took too long to decode.") from None
        except (OSError, EOFError, ValueError, LookupError, TypeError):
            if not self._is_running:
                raise _not_running() from None
            raise kind.decode_error(f"The {kind.label} could not be decoded.") from None
        finally:
            self._return_to_pool(worker)

    def _ensure_alive(self, worker: WorkerProcess | None) -> WorkerProcess:
        """Return the worker, or start another if there is none or it died while idle."""
        if worker is not None and worker.is_alive():
            return worker
        if worker is not None:
            self._close(worker)
        return self._start_worker()

    def _return_to_pool(self, worker: WorkerProcess | None) -> None:
        """Make the worker available again; one that did not finish its job is closed instead."""
        if worker is not None and worker.is_busy:
            self._close(worker)
            worker = None
        self._idle.put(worker)

    def _start_worker(self) -> WorkerProcess:
        if not self._is_running:
            raise EOFError
        worker = WorkerProcess(self._spec, self._buffers)
        self._workers.add(worker)
        try:
            worker.wait_ready()
        except (OSError, EOFError):
            self._close(worker)
            raise
        return worker

    def _close(self, worker: WorkerProcess) -> None:
        self._workers.discard(worker)
        worker.close()


def _no_tiles(_: dict[str, Any]) -> int:
    return 0


def _not_running() -> EngineUnavailableError:
    return EngineUnavailableError("The server is starting or shutting down; try again shortly.")
