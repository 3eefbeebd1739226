"""The one door of this package: images and videos in, tiles or their number out, or the first error."""

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
from internvl_server.media.sources.data_url import max_base64_chars
from internvl_server.media.sources.fetch import MediaFetcher
from internvl_server.media.sources.loader import RequestLoader, attach_param, gather
from internvl_server.media.tile_budget import allocate_tiles, fits_worst_case
from internvl_server.media.tiling import TILE_PX, count_tiles, select_grid
from internvl_server.media.video_preparer import VideoPreparer
from internvl_server.media.workers.pool import DecodePool
from internvl_server.media.workers.process import WorkerSpec
from internvl_server.settings import MediaSettings

__all__ = ["MediaPreparer"]

HIGH_DETAIL_TILES = 12
MAX_AUTO_WORKERS = 4

T = TypeVar("T")
Video: TypeAlias = VideoReference | FrameList


class MediaPreparer:
    """Fetches, decodes and tiles the images and videos of a request, all of them at the same time.

    `start` it before use and `close` it after.

    Args:
        settings: Limits and timeouts.
        tile_px: Side of a tile in pixels.
        auto_max_tiles: What `detail: auto` stands for: the checkpoint's `max_dynamic_patch`.
        num_tokens_per_tile: Prompt tokens a tile takes.
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
            StartupError: They cannot be started.
        """
        await self._videos.start()
        await self._pool.start()

    async def close(self) -> None:
        """Close connections and end the workers."""
        await self._fetcher.aclose()
        await self._pool.close()
        await self._videos.close()

    async def prepare(
        self, media_parts: Sequence[MediaPart], *, max_image_tokens: int | None = None
    ) -> tuple[ImageTiles, ...]:
        """The tiles of each picture, in the order of `media_parts`: of each image, and of each frame one.

        When the images together ask for more tiles than the frames leave of `max_tiles_per_request`, or
        of what `max_image_tokens` have room for, those that ask for most get fewer
        (`budget.allocate_tiles`). The first failure cancels the rest.

        Args:
            media_parts: Where images and videos are to be had; none is fetched if there are too many.
            max_image_tokens: Prompt tokens all pictures may take; None if that is not limited.

        Raises:
            InvalidRequestError: Too many images or videos, even at one tile a picture.
            ImageError, VideoError: One cannot be used; `param` is its own.
            EngineOverloadedError: The server is fetching too many.
        """
        budget = self._image_budget(media_parts, max_image_tokens)
        loader = RequestLoader(self._fetcher, self._settings)
        return await _in_order(
            media_parts,
            partial(self._prepare_images, loader=loader, budget=budget),
            partial(self._videos.prepare, loader=loader),
        )

    async def measure(
        self, media_parts: Sequence[MediaPart], *, max_image_tokens: int
    ) -> tuple[ImageMeasure, ...]:
        """What `prepare` would make of each picture, from headers alone: no image is decoded or cut.

        A file whose header is whole passes here even if `prepare` refuses the rest of it. Where there is
        no room for one tile a picture, one is reckoned: that is the least they can take.

        Args:
            media_parts: Where images and videos are to be had; none is fetched if there are too many.
            max_image_tokens: Prompt tokens all pictures may take.

        Raises:
            InvalidRequestError: More images or videos than are allowed.
            ImageError, VideoError: One cannot be used; `param` is its own.
            EngineOverloadedError: The server is fetching too many.
        """
        least = _count_pictures(media_parts) * self._num_tokens_per_tile
        budget = self._image_budget(media_parts, max(max_image_tokens, least))
        loader = RequestLoader(self._fetcher, self._settings)
        return await _in_order(
            media_parts,
            partial(self._measure_images, loader=loader, budget=budget),
            partial(self._videos.measure, loader=loader),
        )

    def _image_budget(self, media_parts: Sequence[MediaPart], max_image_tokens: int | None) -> int:
        """The tiles that frames leave for images."""
        settings = self._settings
        num_images = sum(isinstance(visual, ImageReference) for visual in media_parts)
        num_videos = len(media_parts) - num_images
        num_pictures = _count_pictures(media_parts)
        for num, noun, most, name in (
            (num_images, "images", settings.max_images, "max_images"),
            (num_videos, "videos", settings.max_videos, "max_videos"),
            (num_pictures, "pictures", settings.max_tiles_per_request, "max_tiles_per_request"),
        ):
            if num > most:
                raise InvalidRequestError(
                    f"The request has {num} {noun}; at most {most} are allowed (media.{name}).",
                    param=Field.PROMPT,
                )
        num_frames = num_pictures - num_images
        if max_image_tokens is None:
            return settings.max_tiles_per_request - num_frames
        room = max_image_tokens // self._num_tokens_per_tile
        if num_pictures > room:
            raise ContextLengthExceededError(
                f"The request has {num_pictures} images and frames, which take at least "
                f"{num_pictures * self._num_tokens_per_tile} tokens; {max(max_image_tokens, 0)} are "
                "left of the model's context. Send fewer images or less text.",
                param=Field.PROMPT,
            )
        return min(settings.max_tiles_per_request, room) - num_frames

    async def _prepare_images(
        self, references: Sequence[ImageReference], *, loader: RequestLoader, budget: int
    ) -> tuple[ImageTiles, ...]:
        images = await _load_all(references, loader)
        wanted = self._wanted(references)
        if not fits_worst_case(wanted, budget):
            sizes = await self._read_sizes(references, images)
            wanted = allocate_tiles(wanted, sizes, budget, tile_px=self._tile_px)
        return await gather(
            attach_param(self._pool.tile(image, max_tiles=cap), reference.param)
            for reference, image, cap in zip(references, images, wanted, strict=True)
        )

    async def _measure_images(
        self, references: Sequence[ImageReference], *, loader: RequestLoader, budget: int
    ) -> tuple[ImageMeasure, ...]:
        sizes = await self._read_sizes(references, await _load_all(references, loader))
        caps = allocate_tiles(self._wanted(references), sizes, budget, tile_px=self._tile_px)
        return tuple(
            ImageMeasure(
                size, count_tiles(select_grid(*size, max_tiles=cap, tile_px=self._tile_px))
            )
            for size, cap in zip(sizes, caps, strict=True)
        )

    def _wanted(self, references: Sequence[ImageReference]) -> tuple[int, ...]:
        """The cap each image asks for."""
        return tuple(
            self._detail_tiles[reference.detail]
            if reference.max_tiles is None
            else reference.max_tiles
            for reference in references
        )

    async def _read_sizes(
        self, references: Sequence[ImageReference], images: Sequence[EncodedMedia]
    ) -> tuple[tuple[int, int], ...]:
        return await gather(
            attach_param(self._pool.read_size(image), reference.param)
            for reference, image in zip(references, images, strict=True)
        )


def _count_pictures(media_parts: Sequence[MediaPart]) -> int:
    return sum(1 if isinstance(v, ImageReference) else v.num_frames for v in media_parts)


async def _load_all(
    references: Sequence[ImageReference], loader: RequestLoader
) -> tuple[EncodedMedia, ...]:
    return await gather(loader.load(r.url, param=r.param) for r in references)


async def _in_order(
    media_parts: Sequence[MediaPart],
    of_images: Callable[[Sequence[ImageReference]], Coroutine[Any, Any, tuple[T, ...]]],
    of_video: Callable[[Video], Coroutine[Any, Any, tuple[T, ...]]],
) -> tuple[T, ...]:
    """What images, all together, and each video become, as one list in the order of `media_parts`."""
    images = [visual for visual in media_parts if isinstance(visual, ImageReference)]
    videos = [visual for visual in media_parts if not isinstance(visual, ImageReference)]
    results = await gather([of_images(images), *map(of_video, videos)])
    image_results, video_results = iter(results[0]), iter(results[1:])
    in_order: list[T] = []
    for visual in media_parts:
        if isinstance(visual, ImageReference):
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
        max_input_bytes=max_base64_chars(settings.max_image_bytes),
    )
