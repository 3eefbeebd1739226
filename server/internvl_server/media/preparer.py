"""The entry point of this package: images and videos to tiles, or to their number."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from internvl_server.core import (
    ImageMeasure,
    ImageReference,
    ImageTiles,
    MediaPart,
    PixelType,
)
from internvl_server.errors import (
    ContextLengthExceededError,
    Field,
    StartupError,
)
from internvl_server.media.cache import CachedPool, TileCache
from internvl_server.media.decoding.image import DecodeLimits
from internvl_server.media.encoded import MediaDemand, Reservation
from internvl_server.media.image_preparer import (
    HIGH_DETAIL_TILES,
    ImagePreparer,
    ImageShare,
)
from internvl_server.media.parts import (
    check_numbers,
    in_order,
    min_tiles,
    num_fetched,
    num_images,
)
from internvl_server.media.pixels.resizing import find_problem
from internvl_server.media.pixels.tiler import PixelFormat
from internvl_server.media.sources.fetch import MediaFetcher
from internvl_server.media.sources.loader import RequestLoader
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.media.tiling import TILE_PX
from internvl_server.media.video_preparer import VideoPreparer
from internvl_server.media.workers.pool import DecodePool
from internvl_server.media.workers.process import WorkerSpec
from internvl_server.media.workers.supply import PoolHealth
from internvl_server.settings import MediaSettings

__all__ = ["MediaPreparer", "worker_spec"]

_log = logging.getLogger(__name__)

MAX_AUTO_WORKERS = 4


class MediaPreparer:
    """Fetches, decodes and tiles all images and videos of a request at the same time.

    Call `start` before use and `close` after.

    Args:
        settings: Limits and timeouts.
        tile_px: Side of a tile in pixels.
        auto_max_tiles: Tiles of an image with `detail: auto`: the checkpoint's `max_dynamic_patch`.
        num_tokens_per_tile: Prompt tokens of a tile.
        pixel_type: Called for each image, because an engine may know it only once it has started.

    Raises:
        StartupError: `media.resize` is `fast`, and cykooz-resizer cannot be used.
    """

    def __init__(
        self,
        settings: MediaSettings,
        *,
        tile_px: int = TILE_PX,
        auto_max_tiles: int = HIGH_DETAIL_TILES,
        num_tokens_per_tile: int = 256,
        pixel_type: Callable[[], PixelType] = lambda: PixelType.FLOAT32,
    ) -> None:
        self._settings = settings
        self._num_tokens_per_tile = num_tokens_per_tile
        self._pixel_type = pixel_type
        self._can_resize_fast = _can_resize_fast(settings)
        self._fetcher = MediaFetcher(settings)
        num_workers = settings.num_workers or min(len(os.sched_getaffinity(0)), MAX_AUTO_WORKERS)
        self._pool = DecodePool(
            worker_spec(settings, tile_px),
            num_workers=num_workers,
            timeout_s=settings.decode_timeout_s,
            pixel_format=self._pixel_format,
        )
        self.cache = cache = TileCache(settings.cache_bytes)
        pool = CachedPool(self._pool, cache, num_workers)
        self._images = ImagePreparer(pool, tile_px=tile_px, auto_max_tiles=auto_max_tiles)
        self._videos = VideoPreparer(settings, tile_px, pool, self._pixel_format, cache)

    @property
    def resize(self) -> Literal["exact", "fast"]:
        """How images are resized; see `media.resize`."""
        return "fast" if self._pixel_format().is_fast else "exact"

    def pools(self) -> dict[str, PoolHealth]:
        """How the processes are that decode images, and those that decode videos."""
        return {"image": self._pool.health(), "video": self._videos.health()}

    def video_outcomes(self) -> dict[str, int]:
        """Videos that were prepared, by outcome."""
        return self._videos.outcomes

    def release(self, unused_s: float) -> None:
        """Give memory of tiles that nobody has used for so long back to the system. Takes milliseconds."""
        self._pool.release(unused_s)
        self._videos.release(unused_s)

    async def start(self) -> None:
        """Start the decode workers.

        Raises:
            StartupError: A worker cannot be started.
        """
        await self._videos.start()
        await self._pool.start()

    async def close(self) -> None:
        """Close connections and end the workers."""
        await self._fetcher.aclose()
        await self._pool.close()
        await self._videos.close()

    async def prepare(
        self,
        media_parts: Sequence[MediaPart],
        *,
        budget: ImageBudget | None = None,
        reservation: Reservation | None = None,
    ) -> tuple[ImageTiles, ...]:
        """Tile all images and videos: several tiles per image, one per frame, in the order of `media_parts`.

        Frames are served first. If the images together request more tiles than are left of `shared_tiles`
        or of the budget, some get fewer (`tile_budget.allocate_tiles`). The first failure cancels the rest.

        Args:
            media_parts: The images and videos; none is fetched if there are too many.
            budget: The prompt tokens of all images and frames; None for no limit.
            reservation: Memory for what `demand` returns; None for any amount. What is not needed is given
                back as soon as that is known: bytes when a host says how many a file has, all of them when
                the images are tiled.

        Raises:
            InvalidRequestError: There are too many images or videos, even at one tile each.
            ImageError, VideoError: One cannot be used; `param` is its JSON path.
            EngineOverloadedError: The server is fetching too many.
        """
        check_numbers(media_parts, self._settings)
        share = self._image_share(media_parts, budget)
        reservation = reservation or Reservation.unlimited()
        loader = self._loader(media_parts, reservation)
        tiles = await in_order(
            media_parts,
            partial(self._images.prepare, loader=loader, share=share, reservation=reservation),
            partial(self._videos.prepare, loader=loader),
        )
        reservation.limit_bytes(0)
        return tiles

    def demand(
        self, media_parts: Sequence[MediaPart], *, budget: ImageBudget | None = None
    ) -> MediaDemand:
        """What `prepare` may need, from the numbers of images, videos and frames.

        Raises:
            InvalidRequestError: As `prepare`.
        """
        check_numbers(media_parts, self._settings)
        share = self._image_share(media_parts, budget)
        images = [part for part in media_parts if isinstance(part, ImageReference)]
        least = min_tiles(media_parts)
        num_frames = least - len(images)
        max_bytes = num_fetched(media_parts) * self._settings.max_image_bytes
        return MediaDemand(
            num_bytes=min(max_bytes, self._settings.max_fetched_bytes),
            num_frames=num_frames,
            min_tiles=least,
            max_tiles=self._images.most_tiles(images, share) + num_frames,
        )

    async def measure(
        self,
        media_parts: Sequence[MediaPart],
        *,
        budget: ImageBudget,
        reservation: Reservation | None = None,
    ) -> tuple[ImageMeasure, ...]:
        """Count the tiles that `prepare` would return, from headers alone: no image is decoded.

        A file with an intact header passes here even if `prepare` would refuse the rest of it. If not even
        one tile per image fits, one is assumed.

        Args:
            media_parts: The images and videos; none is fetched if there are too many.
            budget: The prompt tokens of all images and frames.
            reservation: Memory for the bytes that `demand` returns; None for any number.

        Raises:
            InvalidRequestError: There are more images or videos than are allowed.
            ImageError, VideoError: One cannot be used; `param` is its JSON path.
            EngineOverloadedError: The server is fetching too many.
        """
        check_numbers(media_parts, self._settings)
        min_tokens = min_tiles(media_parts) * self._num_tokens_per_tile
        budget = replace(budget, max_tokens=max(budget.max_tokens, min_tokens))
        share = self._image_share(media_parts, budget)
        reservation = reservation or Reservation.unlimited()
        loader = self._loader(media_parts, reservation)
        return await in_order(
            media_parts,
            partial(self._images.measure, loader=loader, share=share),
            partial(self._videos.measure, loader=loader),
        )

    def _loader(self, media_parts: Sequence[MediaPart], reservation: Reservation) -> RequestLoader:
        return RequestLoader(self._fetcher, self._settings, num_fetched(media_parts), reservation)

    def _pixel_format(self) -> PixelFormat:
        pixel_type = self._pixel_type()
        is_rounded = pixel_type is not PixelType.FLOAT32
        is_wanted = self._settings.resize == "fast" or is_rounded
        return PixelFormat(pixel_type, is_fast=self._can_resize_fast and is_wanted)

    def _image_share(
        self, media_parts: Sequence[MediaPart], budget: ImageBudget | None
    ) -> ImageShare:
        """The tiles that frames leave for images, at least one for each image."""
        least = min_tiles(media_parts)
        num_frames = least - num_images(media_parts)
        num_earlier = 0 if budget is None else num_images(media_parts[: budget.num_earlier])
        num_tiles = self._shared_tiles(least, num_earlier)
        if budget is not None:
            self._check_context(least, budget.max_tokens)
            num_tiles = min(num_tiles, budget.shared_tokens // self._num_tokens_per_tile)
        return ImageShare(max(num_tiles, least) - num_frames, num_earlier)

    def _shared_tiles(self, min_tiles: int, num_earlier: int) -> int:
        """The tiles of a request: in a long conversation, enough for one more image in high detail."""
        shared, most = self._settings.shared_tiles, self._settings.max_tiles_per_request
        if num_earlier:
            shared = max(shared, min_tiles - 1 + min(shared, HIGH_DETAIL_TILES + 1))
        return min(shared, most)

    def _check_context(self, min_tiles: int, max_tokens: int) -> None:
        min_tokens = min_tiles * self._num_tokens_per_tile
        if min_tokens > max_tokens:
            raise ContextLengthExceededError(
                f"The request has {min_tiles} images and frames, which take at least {min_tokens} tokens; "
                f"{max(max_tokens, 0)} are left of the model's context. Send fewer images or less text.",
                param=Field.PROMPT,
            )


def _can_resize_fast(settings: MediaSettings) -> bool:
    problem = find_problem() if settings.resize != "exact" else None
    if problem is None:
        return settings.resize != "exact"
    if settings.resize == "fast":
        raise StartupError(f"media.resize is 'fast', but {problem}. Install internvl-server[fast].")
    _log.info("images are resized exactly, not fast: %s", problem)
    return False


def worker_spec(settings: MediaSettings, tile_px: int) -> WorkerSpec:
    """How the processes that decode images are started."""
    limits = DecodeLimits(
        max_pixels=settings.max_image_pixels,
        max_side_px=settings.max_image_side_px,
        max_aspect_ratio=settings.max_aspect_ratio,
    )
    return WorkerSpec(
        limits=limits,
        tile_px=tile_px,
        max_tiles=min(settings.shared_tiles, settings.max_tiles_per_request),
        max_input_bytes=settings.max_image_bytes,
    )
