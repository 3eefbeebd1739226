"""The entry point of this package: images and videos to tiles, or to their number."""

import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from internvl_server.core import (
    FrameList,
    ImageMeasure,
    ImageReference,
    ImageTiles,
    MediaPart,
    PixelType,
    VideoReference,
)
from internvl_server.errors import (
    ContextLengthExceededError,
    Field,
    InvalidRequestError,
    StartupError,
)
from internvl_server.media.cache import CachedPool, TileCache
from internvl_server.media.decoding.image import DecodeLimits
from internvl_server.media.image_preparer import (
    HIGH_DETAIL_TILES,
    ImagePreparer,
    ImageShare,
    ReserveTiles,
)
from internvl_server.media.pixels.resizing import find_problem
from internvl_server.media.pixels.tiler import PixelFormat
from internvl_server.media.sources.fetch import MediaFetcher
from internvl_server.media.sources.loader import RequestLoader, gather
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.media.tiling import TILE_PX
from internvl_server.media.video_preparer import VideoPreparer
from internvl_server.media.workers.pool import DecodePool
from internvl_server.media.workers.process import WorkerSpec
from internvl_server.media.workers.supply import PoolHealth
from internvl_server.settings import MediaSettings

__all__ = ["MediaPreparer"]

_log = logging.getLogger(__name__)

MAX_AUTO_WORKERS = 4

T = TypeVar("T")
Video: TypeAlias = VideoReference | FrameList


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
        self._pool = DecodePool(
            _worker_spec(settings, tile_px),
            num_workers=settings.num_workers or min(len(os.sched_getaffinity(0)), MAX_AUTO_WORKERS),
            timeout_s=settings.decode_timeout_s,
            pixel_format=self._pixel_format,
        )
        cache = TileCache(settings.cache_bytes)
        pool = CachedPool(self._pool, cache)
        self._images = ImagePreparer(pool, tile_px=tile_px, auto_max_tiles=auto_max_tiles)
        self._videos = VideoPreparer(settings, tile_px, pool, self._pixel_format, cache)

    @property
    def resize(self) -> Literal["exact", "fast"]:
        """How images are resized; see `media.resize`."""
        return "fast" if self._pixel_format().is_fast else "exact"

    def pools(self) -> dict[str, PoolHealth]:
        """How the processes are that decode images, and those that decode videos."""
        return {"image": self._pool.health(), "video": self._videos.health()}

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
        reserve_tiles: ReserveTiles | None = None,
    ) -> tuple[ImageTiles, ...]:
        """Tile all images and videos: several tiles per image, one per frame, in the order of `media_parts`.

        Frames are served first. If the images together request more tiles than are left of `shared_tiles`
        or of the budget, some get fewer (`tile_budget.allocate_tiles`). The first failure cancels the rest.

        Args:
            media_parts: The images and videos; none is fetched if there are too many.
            budget: The prompt tokens of all images and frames; None for no limit.
            reserve_tiles: Called with one tile per image and frame before anything is fetched, then with
                the number of tiles before an image is decoded. May raise to refuse them.

        Raises:
            InvalidRequestError: There are too many images or videos, even at one tile each.
            ImageError, VideoError: One cannot be used; `param` is its JSON path.
            EngineOverloadedError: The server is fetching too many.
        """
        self._check_numbers(media_parts)
        share = self._image_share(media_parts, budget)
        reserve_tiles = reserve_tiles or _grant
        reserve_tiles(_min_tiles(media_parts))
        num_frames = _min_tiles(media_parts) - _num_images(media_parts)
        loader = RequestLoader(self._fetcher, self._settings)
        return await _in_order(
            media_parts,
            partial(
                self._images.prepare,
                loader=loader,
                share=share,
                reserve_tiles=lambda num_tiles: reserve_tiles(num_frames + num_tiles),
            ),
            partial(self._videos.prepare, loader=loader),
        )

    async def measure(
        self, media_parts: Sequence[MediaPart], *, budget: ImageBudget
    ) -> tuple[ImageMeasure, ...]:
        """Count the tiles that `prepare` would return, from headers alone: no image is decoded.

        A file with an intact header passes here even if `prepare` would refuse the rest of it. If not even
        one tile per image fits, one is assumed.

        Args:
            media_parts: The images and videos; none is fetched if there are too many.
            budget: The prompt tokens of all images and frames.

        Raises:
            InvalidRequestError: There are more images or videos than are allowed.
            ImageError, VideoError: One cannot be used; `param` is its JSON path.
            EngineOverloadedError: The server is fetching too many.
        """
        self._check_numbers(media_parts)
        min_tokens = _min_tiles(media_parts) * self._num_tokens_per_tile
        budget = replace(budget, max_tokens=max(budget.max_tokens, min_tokens))
        share = self._image_share(media_parts, budget)
        loader = RequestLoader(self._fetcher, self._settings)
        return await _in_order(
            media_parts,
            partial(self._images.measure, loader=loader, share=share),
            partial(self._videos.measure, loader=loader),
        )

    def _pixel_format(self) -> PixelFormat:
        pixel_type = self._pixel_type()
        is_rounded = pixel_type is not PixelType.FLOAT32
        is_wanted = self._settings.resize == "fast" or is_rounded
        return PixelFormat(pixel_type, is_fast=self._can_resize_fast and is_wanted)

    def _check_numbers(self, media_parts: Sequence[MediaPart]) -> None:
        """Refuse too many images, videos or frames, whatever the model's context is."""
        num_images = _num_images(media_parts)
        for count, label, limit in (
            (num_images, "images", "max_images"),
            (len(media_parts) - num_images, "videos", "max_videos"),
            (_min_tiles(media_parts), "images and frames", "max_tiles_per_request"),
        ):
            max_count = getattr(self._settings, limit)
            if count > max_count:
                raise InvalidRequestError(
                    f"The request has {count} {label}; at most {max_count} are allowed "
                    f"(media.{limit}).",
                    param=Field.PROMPT,
                )

    def _image_share(
        self, media_parts: Sequence[MediaPart], budget: ImageBudget | None
    ) -> ImageShare:
        """The tiles that frames leave for images, at least one for each image."""
        min_tiles = _min_tiles(media_parts)
        num_frames = min_tiles - _num_images(media_parts)
        num_earlier = 0 if budget is None else _num_images(media_parts[: budget.num_earlier])
        num_tiles = self._shared_tiles(min_tiles, num_earlier)
        if budget is not None:
            self._check_context(min_tiles, budget.max_tokens)
            num_tiles = min(num_tiles, budget.shared_tokens // self._num_tokens_per_tile)
        return ImageShare(max(num_tiles, min_tiles) - num_frames, num_earlier)

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


def _grant(_: int) -> None:
    """Accept any number of tiles."""


def _num_images(media_parts: Sequence[MediaPart]) -> int:
    return sum(isinstance(part, ImageReference) for part in media_parts)


def _min_tiles(media_parts: Sequence[MediaPart]) -> int:
    """One tile per image and per frame."""
    return sum(1 if isinstance(p, ImageReference) else p.num_frames for p in media_parts)


async def _in_order(
    media_parts: Sequence[MediaPart],
    process_images: Callable[[Sequence[ImageReference]], Coroutine[Any, Any, tuple[T, ...]]],
    process_video: Callable[[Video], Coroutine[Any, Any, tuple[T, ...]]],
) -> tuple[T, ...]:
    """Process all images together and each video by itself; results are in the order of `media_parts`."""
    images = [part for part in media_parts if isinstance(part, ImageReference)]
    videos = [part for part in media_parts if not isinstance(part, ImageReference)]
    results = await gather([process_images(images), *map(process_video, videos)])
    image_results, video_results = iter(results[0]), iter(results[1:])
    in_order: list[T] = []
    for part in media_parts:
        if isinstance(part, ImageReference):
            in_order.append(next(image_results))
        else:
            in_order += next(video_results)
    return tuple(in_order)


def _can_resize_fast(settings: MediaSettings) -> bool:
    problem = find_problem() if settings.resize != "exact" else None
    if problem is None:
        return settings.resize != "exact"
    if settings.resize == "fast":
        raise StartupError(f"media.resize is 'fast', but {problem}. Install internvl-server[fast].")
    _log.info("images are resized exactly, not fast: %s", problem)
    return False


def _worker_spec(settings: MediaSettings, tile_px: int) -> WorkerSpec:
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
