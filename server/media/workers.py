"""A pool of processes that decode and tile, so that a crafted image can end one of them and no more.

Each process has its own pipe and its own shared memory, and one thread of the parent that waits for
it. Nothing is shared between processes, so one that dies or hangs, at whatever instant, fails its own
image only. (`concurrent.futures` breaks the whole pool when one process dies; pebble's workers share
one pipe and two locks: a death under a lock stalls all of them, the death of an idle one breaks the
pool.)
"""

import asyncio
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from server.core import ImageTiles
from server.errors import EngineUnavailableError, ImageDecodeError, StartupError
from server.media.fingerprint import fingerprint
from server.media.worker_process import (
    EncodedImage,
    Result,
    WorkerProcess,
    WorkerSpec,
    read_pair,
)

__all__ = ["DecodePool"]

T = TypeVar("T")


class DecodePool:
    """Processes that turn encoded images into tiles.

    `start` it before use and `close` it after. A cancelled call leaves its worker to finish and drops
    the result; nothing of a request outlives the call that brought it.
    """

    def __init__(self, spec: WorkerSpec, *, num_workers: int, timeout_s: float) -> None:
        self._spec = spec
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._idle: queue.SimpleQueue[WorkerProcess | None] = queue.SimpleQueue()
        self._workers: set[WorkerProcess] = set()
        self._is_running = False
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    async def start(self) -> None:
        """Start all workers and wait until each is ready.

        Raises:
            StartupError: One cannot be started.
        """
        self._is_running = True
        loop = asyncio.get_running_loop()
        starts = [
            loop.run_in_executor(self._threads, self._start_worker)
            for _ in range(self._num_workers)
        ]
        try:
            for worker in await asyncio.gather(*starts):
                self._idle.put(worker)
        except (OSError, EOFError) as err:
            self._is_running = False
            for _ in range(self._num_workers):
                self._idle.put(None)  # a job that was taken meanwhile must not wait for ever
            raise StartupError("The image decoding processes cannot be started.") from err

    async def close(self) -> None:
        """End all workers; calls still running fail with `EngineUnavailableError`."""
        self._is_running = False
        for worker in tuple(self._workers):
            worker.kill()
        await asyncio.to_thread(self._threads.shutdown)
        for worker in tuple(self._workers):
            self._discard(worker)

    async def read_size(self, image: EncodedImage) -> tuple[int, int]:
        """Width and height of the upright image. Raises like `tile`."""
        answer, _ = await self._on_thread(partial(self._run_blocking, image, None))
        return read_pair(answer["size"])

    async def tile(self, image: EncodedImage, *, max_tiles: int) -> ImageTiles:
        """Decode an image and cut it into tiles.

        Args:
            image: The encoded image, at most `max_input_bytes`.
            max_tiles: Upper bound without the thumbnail; with it at most the `max_tiles` of the pool.

        Raises:
            ImageError: The image cannot be used, took too long, or ended its worker.
            EngineUnavailableError: The pool is not started, or being closed.
        """
        return await self._on_thread(partial(self._tile_blocking, image, max_tiles))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if not self._is_running:
            raise _not_running()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _tile_blocking(self, image: EncodedImage, max_tiles: int) -> ImageTiles:
        answer, pixels = self._run_blocking(image, max_tiles)
        assert pixels is not None
        grid = read_pair(answer["grid"])
        return ImageTiles(
            pixels=pixels,
            grid=grid,
            size=read_pair(answer["size"]),
            fingerprint=fingerprint(image, grid, self._spec.tile_px),
        )

    def _run_blocking(self, image: EncodedImage, max_tiles: int | None) -> Result:
        worker = self._idle.get()  # never waits: there are as many threads as workers
        try:
            worker = self._healed(worker)
            return worker.run(image, max_tiles, self._timeout_s)
        except TimeoutError:
            raise ImageDecodeError("The image took too long to decode.") from None
        except (OSError, EOFError, ValueError, LookupError, TypeError):
            if not self._is_running:
                raise _not_running() from None
            raise ImageDecodeError("The image could not be decoded.") from None
        finally:
            self._idle.put(self._replacement(worker))

    def _healed(self, worker: WorkerProcess | None) -> WorkerProcess:
        """A worker that lives: this one, or another if it died idle or could not be started before."""
        if worker is not None and worker.is_alive():
            return worker
        if worker is not None:
            self._discard(worker)
        return self._start_worker()

    def _replacement(self, worker: WorkerProcess | None) -> WorkerProcess | None:
        """What goes back into the pool: this worker, or None if it broke off in the middle of a job."""
        if worker is not None and worker.is_busy:
            self._discard(worker)
            return None
        return worker

    def _start_worker(self) -> WorkerProcess:
        if not self._is_running:
            raise EOFError
        worker = WorkerProcess(self._spec)
        self._workers.add(worker)
        try:
            worker.wait_ready()
        except (OSError, EOFError):
            self._discard(worker)
            raise
        return worker

    def _discard(self, worker: WorkerProcess) -> None:
        self._workers.discard(worker)
        worker.close()


def _not_running() -> EngineUnavailableError:
    return EngineUnavailableError("The server is starting or shutting down; try again shortly.")
