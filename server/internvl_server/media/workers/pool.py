"""A pool of processes that decode and tile, so that a crafted file can at most kill one of them.

Each process has its own pipe, its own shared memory and a thread of the parent that waits for it.
Processes share nothing, so one that dies or hangs, at any moment, concerns only its own image, which is tried
once more in another process: the death may have had another reason, such as a lack of memory.
(`concurrent.futures` breaks the whole pool when one process dies; pebble's workers share one pipe and
two locks: a death under a lock stalls all of them, the death of an idle one breaks the pool.)
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

from internvl_server.core import ImageTiles
from internvl_server.errors import EngineUnavailableError, ServerError, StartupError
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.fingerprint import fingerprint, frame_fingerprints
from internvl_server.media.pixels.tiler import PixelFormat
from internvl_server.media.workers.answers import count_grid, read_pair, tile_seconds
from internvl_server.media.workers.process import Result, WorkerSpec
from internvl_server.media.workers.supply import PoolHealth, WorkerSupply, not_open
from internvl_server.telemetry.record import Stage, add_stage

__all__ = ["DecodePool"]

T = TypeVar("T")
_Times: TypeAlias = tuple[float, float, float]


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
        self._pixel_format = pixel_format
        self._starts_on_demand = starts_on_demand
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._supply = WorkerSupply(spec, num_workers)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")
        self._filling: Future[None] | None = None

    async def start(self) -> None:
        """Accept jobs; unless they start on demand, start all workers and wait until they are ready.

        Raises:
            StartupError: A worker cannot be started.
        """
        self._supply.is_open = True
        if self._starts_on_demand:
            return
        has_started = False
        fill = self._supply.fill
        try:
            await asyncio.gather(*(self._on_thread(fill) for _ in range(self._num_workers)))
            has_started = True
        except EngineUnavailableError as err:
            raise StartupError("The image decoding processes cannot be started.") from err
        finally:  # also when cancelled: no job is accepted without processes
            self._supply.is_open = self._supply.is_open and has_started

    async def close(self) -> None:
        """End all workers; running calls fail with `EngineUnavailableError`."""
        self._supply.kill()
        await asyncio.to_thread(self._threads.shutdown)
        self._supply.close()

    def health(self) -> PoolHealth:
        """How the processes are. One that is missing is started in the background."""
        health = self._supply.health()
        is_incomplete = health.num_alive < self._num_workers and not self._starts_on_demand
        if health.problem or is_incomplete:
            self._fill_later()
        return health

    def release(self, unused_s: float) -> None:
        """Give memory of tiles that nobody has used for so long back to the system. Takes milliseconds."""
        self._supply.release(unused_s)

    async def read_size(self, image: EncodedMedia) -> tuple[int, int]:
        """Width and height of the upright image. Raises the errors of `tile`."""
        job = partial(self._run, image, {"max_tiles": None}, _no_tiles)
        answer, _ = await self._on_thread(job)
        return read_pair(answer["size"])

    async def tile(self, image: EncodedMedia, *, max_tiles: int) -> ImageTiles:
        """Decode an image and cut it into tiles.

        Args:
            image: The encoded image, at most `max_input_bytes`.
            max_tiles: Upper bound without the thumbnail; at most the pool's `max_tiles` with it.

        Raises:
            ImageError: The image cannot be used or took too long.
            EngineUnavailableError: Two workers were lost, or none can be started; or the pool is closed.
        """
        return _noted(*await self._on_thread(partial(self._tile_blocking, image, max_tiles)))

    async def frames(self, video: EncodedMedia, *, num_frames: int) -> tuple[ImageTiles, ...]:
        """Sample frames of a video and scale each to one tile; needs a pool of video workers.

        Args:
            video: The encoded video, at most `max_input_bytes`.
            num_frames: At most the pool's `max_tiles`.

        Raises:
            VideoError: The video cannot be used or took too long.
            EngineUnavailableError: Two workers were lost, or none can be started; or the pool is closed.
        """
        return _noted(*await self._on_thread(partial(self._frames_blocking, video, num_frames)))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if not self._supply.is_open:
            raise not_open()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _run(
        self, media: EncodedMedia, job: dict[str, Any], count: Callable[[dict[str, Any]], int]
    ) -> Result:
        try:
            return self._supply.run(media, job, count, self._timeout_s)
        except ServerError:
            if self._supply.has_gap and not self._starts_on_demand:
                self._fill_later()
            raise

    def _fill_later(self) -> None:
        """Start a process unless one is being started: starts that fail slowly would hold up the jobs."""
        if self._filling is None or self._filling.done():
            with suppress(RuntimeError):  # `close` was called
                self._filling = self._threads.submit(self._fill)

    def _fill(self) -> None:
        with suppress(EngineUnavailableError):  # which the health shows
            self._supply.fill()

    def _tile_blocking(self, image: EncodedMedia, max_tiles: int) -> tuple[ImageTiles, _Times]:
        count = partial(count_grid, max_tiles=max_tiles)
        form = self._pixel_format()
        job = {"max_tiles": max_tiles, "pixel_type": form.type, "is_fast": form.is_fast}
        started = time.monotonic()
        answer, pixels = self._run(image, job, count)
        times = _times(started, answer)
        assert pixels is not None
        grid = read_pair(answer["grid"])
        tiles = ImageTiles(
            pixels=pixels,
            grid=grid,
            size=read_pair(answer["size"]),
            fingerprint=fingerprint(image, grid, self._spec.tile_px, form),
        )
        return tiles, times

    def _frames_blocking(
        self, video: EncodedMedia, num_frames: int
    ) -> tuple[tuple[ImageTiles, ...], _Times]:
        form = self._pixel_format()
        job = {"num_frames": num_frames, "pixel_type": form.type, "is_fast": form.is_fast}
        started = time.monotonic()
        answer, pixels = self._run(video, job, lambda _: num_frames)
        times = _times(started, answer)
        assert pixels is not None
        size = read_pair(answer["size"])
        keys = frame_fingerprints(video, num_frames, self._spec.tile_px, form)
        frames = tuple(
            ImageTiles(pixels=pixels[index : index + 1], grid=(1, 1), size=size, fingerprint=key)
            for index, key in enumerate(keys)
        )
        return frames, times


def _times(started: float, answer: dict[str, Any]) -> _Times:
    """When a job began, its tiles were begun, and it ended."""
    ended = time.monotonic()
    return started, ended - tile_seconds(answer, ended - started), ended


def _noted(result: T, times: _Times) -> T:
    """Note the times of a job with the request that it is done for, and return its result."""
    started, decoded, ended = times
    add_stage(Stage.DECODE_MEDIA, started, decoded)
    add_stage(Stage.TILE, decoded, ended)
    return result


def _no_tiles(_: dict[str, Any]) -> int:
    return 0
