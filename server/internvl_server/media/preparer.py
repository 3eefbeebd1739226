"""The entry point of this package: images and videos to tiles, or to their number."""

import os
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from internvl_server.core import (
    Detail,
    FrameList,
    ImageMeasure,
    ImageReference,
    ImageTiles,
    MediaPart,
    VideoReference,
)
from internvl_server.errors import ContextLengthExceededError, Field, InvalidRequestError
from internvl_server.media.decoding.image import DecodeLimits
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.sources.fetch import MediaFetcher
from internvl_server.media.sources.loader import RequestLoader, attach_param, gather
from internvl_server.media.tile_budget import allocate_tiles
from internvl_server.media.tiling import TILE_PX, count_tiles, select_grid
from internvl_server.media.video_preparer import VideoPreparer
from internvl_server.media.workers.pool import DecodePool
from internvl_server.media.workers.process import WorkerSpec
from internvl_server.settings import MediaSettings

__all__ = ["MediaPreparer"]

MEDIUM_DETAIL_TILES = 6
HIGH_DETAIL_TILES = 12
MAX_AUTO_WORKERS = 4

T = TypeVar("T")
ReserveTiles: TypeAlias = Callable[[int], None]
Video: TypeAlias = VideoReference | FrameList


class MediaPreparer:
    """Fetches, decodes and tiles all images and videos of a request at the same time.

    Call `start` before use and `close` after.

    Args:
        settings: Limits and timeouts.
        tile_px: Side of a tile in pixels.
        auto_max_tiles: Tiles of an image with `detail: auto`: the checkpoint's `max_dynamic_patch`.
        num_tokens_per_tile: Prompt tokens of a tile.
    """

    def __init__(
        self,
        settings: MediaSettings,
        *,
        tile_px: int = TILE_PX,
        auto_max_tiles: int = HIGH_DETAIL_TILES,
        num_tokens_per_tile: int = 256,
    ) -> None:
        self._settings = settings
        self._tile_px = tile_px
        self._num_tokens_per_tile = num_tokens_per_tile
        self._detail_tiles = {
            Detail.LOW: 1,
            Detail.MEDIUM: MEDIUM_DETAIL_TILES,
            Detail.AUTO: auto_max_tiles,
            Detail.HIGH: HIGH_DETAIL_TILES,
            Detail.ORIGINAL: HIGH_DETAIL_TILES,
        }
        self._fetcher = MediaFetcher(settings)
        self._pool = DecodePool(
            _worker_spec(settings, tile_px),
            num_workers=settings.num_workers or min(os.cpu_count() or 1, MAX_AUTO_WORKERS),
            timeout_s=settings.decode_timeout_s,
        )
        self._videos = VideoPreparer(settings, tile_px, self._pool)

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
        max_image_tokens: int | None = None,
        reserve_tiles: ReserveTiles | None = None,
    ) -> tuple[ImageTiles, ...]:
        """Tile all images and videos: several tiles per image, one per frame, in the order of `media_parts`.

        Frames are served first. If the images together request more tiles than are left of
        `max_tiles_per_request` or fit into `max_image_tokens`, those that request most get fewer
        (`tile_budget.allocate_tiles`). The first failure cancels the rest.

        Args:
            media_parts: The images and videos; none is fetched if there are too many.
            max_image_tokens: Most prompt tokens of all images and frames; None for no limit.
            reserve_tiles: Called with one tile per image and frame before anything is fetched, then with
                the number of tiles before an image is decoded. May raise to refuse them.

        Raises:
            InvalidRequestError: There are too many images or videos, even at one tile each.
            ImageError, VideoError: One cannot be used; `param` is its JSON path.
            EngineOverloadedError: The server is fetching too many.
        """
        budget = self._image_budget(media_parts, max_image_tokens)
        reserve_tiles = reserve_tiles or _grant
        reserve_tiles(_min_tiles(media_parts))
        num_frames = _min_tiles(media_parts) - _num_images(media_parts)
        loader = RequestLoader(self._fetcher, self._settings)
        return await _in_order(
            media_parts,
            partial(
                self._prepare_images,
                loader=loader,
                budget=budget,
                reserve_tiles=lambda num_tiles: reserve_tiles(num_frames + num_tiles),
            ),
            partial(self._videos.prepare, loader=loader),
        )

    async def measure(
        self, media_parts: Sequence[MediaPart], *, max_image_tokens: int
    ) -> tuple[ImageMeasure, ...]:
        """Count the tiles that `prepare` would return, from headers alone: no image is decoded.

        A file with an intact header passes here even if `prepare` would refuse the rest of it. If not even
        one tile per image fits, one is assumed.

        Args:
            media_parts: The images and videos; none is fetched if there are too many.
            max_image_tokens: Most prompt tokens of all images and frames.

        Raises:
            InvalidRequestError: There are more images or videos than are allowed.
            ImageError, VideoError: One cannot be used; `param` is its JSON path.
            EngineOverloadedError: The server is fetching too many.
        """
        min_tokens = _min_tiles(media_parts) * self._num_tokens_per_tile
        budget = self._image_budget(media_parts, max(max_image_tokens, min_tokens))
        loader = RequestLoader(self._fetcher, self._settings)
        return await _in_order(
            media_parts,
            partial(self._measure_images, loader=loader, budget=budget),
            partial(self._videos.measure, loader=loader),
        )

    def _image_budget(self, media_parts: Sequence[MediaPart], max_image_tokens: int | None) -> int:
        """Check the numbers of images, videos and frames; returns how many tiles are left for images."""
        settings = self._settings
        num_images = _num_images(media_parts)
        num_videos = len(media_parts) - num_images
        min_tiles = _min_tiles(media_parts)
        num_frames = min_tiles - num_images
        for count, label, limit in (
            (num_images, "images", "max_images"),
            (num_videos, "videos", "max_videos"),
            (min_tiles, "images and frames", "max_tiles_per_request"),
        ):
            max_count = getattr(settings, limit)
            if count > max_count:
                raise InvalidRequestError(
                    f"The request has {count} {label}; at most {max_count} are allowed "
                    f"(media.{limit}).",
                    param=Field.PROMPT,
                )
        if max_image_tokens is None:
            return settings.max_tiles_per_request - num_frames
        max_tiles = max_image_tokens // self._num_tokens_per_tile
        if min_tiles > max_tiles:
            raise ContextLengthExceededError(
                f"The request has {min_tiles} images and frames, which take at least "
                f"{min_tiles * self._num_tokens_per_tile} tokens; {max(max_image_tokens, 0)} are "
                "left of the model's context. Send fewer images or less text.",
                param=Field.PROMPT,
            )
        return min(settings.max_tiles_per_request, max_tiles) - num_frames

    async def _prepare_images(
        self,
        references: Sequence[ImageReference],
        *,
        loader: RequestLoader,
        budget: int,
        reserve_tiles: ReserveTiles,
    ) -> tuple[ImageTiles, ...]:
        images = await _load_all(references, loader)
        sizes, caps = await self._plan_tiles(references, images, budget)
        reserve_tiles(sum(map(self._num_tiles, sizes, caps)))
        return await gather(
            attach_param(self._pool.tile(image, max_tiles=cap), reference.param)
            for reference, image, cap in zip(references, images, caps, strict=True)
        )

    async def _measure_images(
        self, references: Sequence[ImageReference], *, loader: RequestLoader, budget: int
    ) -> tuple[ImageMeasure, ...]:
        images = await _load_all(references, loader)
        sizes, caps = await self._plan_tiles(references, images, budget)
        return tuple(map(ImageMeasure, sizes, map(self._num_tiles, sizes, caps)))

    async def _plan_tiles(
        self, references: Sequence[ImageReference], images: Sequence[EncodedMedia], budget: int
    ) -> tuple[Sequence[tuple[int, int]], Sequence[int]]:
        """The size of each image, from its header, and its tile cap within the budget."""
        sizes = await gather(
            attach_param(self._pool.read_size(image), reference.param)
            for reference, image in zip(references, images, strict=True)
        )
        requested = self._requested_tiles(references)
        return sizes, allocate_tiles(requested, sizes, budget, tile_px=self._tile_px)

    def _num_tiles(self, size: tuple[int, int], cap: int) -> int:
        return count_tiles(select_grid(*size, max_tiles=cap, tile_px=self._tile_px))

    def _requested_tiles(self, references: Sequence[ImageReference]) -> tuple[int, ...]:
        """The tile cap that each image's `max_tiles` or `detail` requests."""
        return tuple(
            self._detail_tiles[reference.detail]
            if reference.max_tiles is None
            else reference.max_tiles
            for reference in references
        )


def _grant(_: int) -> None:
    """Accept any number of tiles."""


def _num_images(media_parts: Sequence[MediaPart]) -> int:
    return sum(isinstance(part, ImageReference) for part in media_parts)


def _min_tiles(media_parts: Sequence[MediaPart]) -> int:
    """One tile per image and per frame."""
    return sum(1 if isinstance(p, ImageReference) else p.num_frames for p in media_parts)


async def _load_all(
    references: Sequence[ImageReference], loader: RequestLoader
) -> tuple[EncodedMedia, ...]:
    return await gather(loader.load(r.url, param=r.param) for r in references)


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


def _worker_spec(settings: MediaSettings, tile_px: int) -> WorkerSpec:
    limits = DecodeLimits(
        max_pixels=settings.max_image_pixels,
        max_side_px=settings.max_image_side_px,
        max_aspect_ratio=settings.max_aspect_ratio,
    )
    return WorkerSpec(
        limits=limits,
        tile_px=tile_px,
        max_tiles=settings.max_tiles_per_request,
        max_input_bytes=settings.max_image_bytes,
    )
