"""Videos, and lists of images that are frames, to one tile per frame."""

from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from internvl_server.concurrency.sharing import SharedBudget
from internvl_server.core import FrameList, ImageMeasure, ImageReference, ImageTiles, VideoReference
from internvl_server.errors import EngineOverloadedError, InvalidRequestError
from internvl_server.media.cache import CachedPool, TileCache
from internvl_server.media.decoding.image import VideoLimits
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.pixels.tiler import PixelFormat
from internvl_server.media.sources.loader import RequestLoader, attach_param, gather
from internvl_server.media.types import VIDEO
from internvl_server.media.workers.pool import DecodePool
from internvl_server.media.workers.process import WorkerSpec
from internvl_server.media.workers.supply import PoolHealth
from internvl_server.settings import MediaSettings

__all__ = ["VideoPreparer", "worker_spec"]


class VideoPreparer:
    """Decodes videos in a separate pool. Call `start` before use and `close` after.

    Args:
        settings: Limits and timeouts.
        tile_px: Side of a tile in pixels.
        images: The pool that decodes frames sent as images.
        pixel_format: Called for each video.
        cache: Keeps frames.

    Attributes:
        outcomes: Videos and lists of frames that requests had prepared, by outcome as of requests: "ok",
            "refused", "left" (the request ended meanwhile) or "failed".
    """

    def __init__(
        self,
        settings: MediaSettings,
        tile_px: int,
        images: CachedPool,
        pixel_format: Callable[[], PixelFormat],
        cache: TileCache,
    ) -> None:
        self.outcomes = dict.fromkeys(("ok", "refused", "left", "failed"), 0)
        self._images = images
        self._in_flight = SharedBudget(
            settings.max_videos_in_flight,
            refusal="The server is busy with other videos. Retry later.",
            wait_s=settings.video_fetch_timeout_s,
        )
        self._pool = DecodePool(
            worker_spec(settings, tile_px),
            num_workers=settings.num_video_workers,
            timeout_s=settings.video_timeout_s,
            pixel_format=pixel_format,
            starts_on_demand=True,
        )
        self._cached = CachedPool(self._pool, cache, settings.num_video_workers)

    def health(self) -> PoolHealth:
        """How the processes are."""
        return self._pool.health()

    def release(self, unused_s: float) -> None:
        """See `DecodePool.release`."""
        self._pool.release(unused_s)

    async def start(self) -> None:
        """Accept videos; processes start with the first one."""
        await self._pool.start()

    async def close(self) -> None:
        """End the workers."""
        await self._pool.close()

    async def prepare(
        self, video: VideoReference | FrameList, loader: RequestLoader
    ) -> tuple[ImageTiles, ...]:
        """Scale each frame to one tile, in order. The encoded bytes are released once they are decoded.

        Raises:
            VideoError, ImageError: The video or a frame cannot be used; `param` is its JSON path.
            EngineOverloadedError: The server is busy with too many videos or fetches.
        """
        with self._counted():
            if isinstance(video, FrameList):
                return await gather(self._tile(frame, loader) for frame in video.frames)
            async with self._loaded(video, loader) as encoded:
                frames = self._cached.frames(encoded, num_frames=video.num_frames)
                return await attach_param(frames, video.param)

    async def measure(
        self, video: VideoReference | FrameList, loader: RequestLoader
    ) -> tuple[ImageMeasure, ...]:
        """The size of each frame; decodes one frame of a video. Raises the errors of `prepare`."""
        if isinstance(video, FrameList):
            return await gather(self._measure(frame, loader) for frame in video.frames)
        async with self._loaded(video, loader) as encoded:
            [frame] = await attach_param(self._cached.frames(encoded, num_frames=1), video.param)
        return (ImageMeasure(frame.size, num_tiles=1),) * video.num_frames

    @contextmanager
    def _counted(self) -> Iterator[None]:
        outcome = "failed"
        try:
            yield
            outcome = "ok"
        except (InvalidRequestError, EngineOverloadedError):
            outcome = "refused"
            raise
        except CancelledError:
            outcome = "left"
            raise
        finally:
            self.outcomes[outcome] += 1

    async def _tile(self, frame: ImageReference, loader: RequestLoader) -> ImageTiles:
        image = await loader.load(frame.url, param=frame.param)
        return await attach_param(self._images.tile(image, max_tiles=1), frame.param)

    async def _measure(self, frame: ImageReference, loader: RequestLoader) -> ImageMeasure:
        image = await loader.load(frame.url, param=frame.param)
        size = await attach_param(self._images.read_size(image), frame.param)
        return ImageMeasure(size, num_tiles=1)

    @asynccontextmanager
    async def _loaded(
        self, video: VideoReference, loader: RequestLoader
    ) -> AsyncIterator[EncodedMedia]:
        with await self._in_flight.reserve(1, cost=video.num_frames):
            yield await loader.load(video.url, param=video.param, kind=VIDEO)


def worker_spec(settings: MediaSettings, tile_px: int) -> WorkerSpec:
    """How the processes that decode videos are started."""
    limits = VideoLimits(
        max_pixels=settings.max_image_pixels,
        max_side_px=settings.max_image_side_px,
        max_aspect_ratio=settings.max_aspect_ratio,
        max_duration_s=settings.max_video_duration_s,
    )
    return WorkerSpec(
        limits=limits,
        tile_px=tile_px,
        max_tiles=settings.max_video_frames,
        max_input_bytes=settings.max_video_bytes,
        kind=VIDEO,
        program="internvl_server.media.workers.video_worker",
    )
