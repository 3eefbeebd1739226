"""The one door of this package: image references in, tiles or their number out, or the first error."""

import asyncio
import os
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from server.core import Detail, ImageMeasure, ImageReference, ImageTiles
from server.errors import ContextLengthExceededError, ImageError, InvalidRequestError, ServerError
from server.media.budget import fits_any_size, share_tiles
from server.media.data_url import is_data_url, max_base64_chars, split_data_url
from server.media.decode import DecodeLimits
from server.media.fetch import ImageFetcher
from server.media.tiling import TILE_PX, count_tiles, select_grid
from server.media.worker_process import EncodedImage, WorkerSpec
from server.media.workers import DecodePool
from server.settings import MediaSettings

__all__ = ["MediaPreparer"]

HIGH_DETAIL_TILES = 12
MAX_AUTO_WORKERS = 4

T = TypeVar("T")


class MediaPreparer:
    """Fetches, decodes and tiles the images of a request, all of them at the same time.

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
        self._fetcher = ImageFetcher(settings)
        self._pool = DecodePool(
            _worker_spec(settings, tile_px),
            num_workers=settings.num_workers or min(os.cpu_count() or 1, MAX_AUTO_WORKERS),
            timeout_s=settings.decode_timeout_s,
        )

    async def start(self) -> None:
        """Start the decode workers.

        Raises:
            StartupError: They cannot be started.
        """
        await self._pool.start()

    async def close(self) -> None:
        """Close connections and end the workers."""
        await self._fetcher.aclose()
        await self._pool.close()

    async def prepare(
        self, references: Sequence[ImageReference], *, max_image_tokens: int | None = None
    ) -> tuple[ImageTiles, ...]:
        """The tiles of each image, in the order of the references.

        When the images together ask for more tiles than `max_tiles_per_request`, or than
        `max_image_tokens` have room for, those that ask for most get fewer (`budget.share_tiles`).
        The first failure cancels the rest.

        Args:
            references: Where the images are to be had; none is fetched if there are too many.
            max_image_tokens: Prompt tokens all images may take; None if that is not limited.

        Raises:
            InvalidRequestError: Too many images, even at one tile each.
            ImageError: One image cannot be used; `param` is its reference's.
            EngineOverloadedError: The server is fetching too many images.
        """
        if not references:
            return ()
        budget = self._tile_budget(len(references), max_image_tokens)
        images = await self._load_all(references)
        caps = await self._share(references, images, budget)
        return await _gather(
            _with_param(self._pool.tile(image, max_tiles=cap), reference.param)
            for reference, image, cap in zip(references, images, caps, strict=True)
        )

    async def measure(
        self, references: Sequence[ImageReference], *, max_image_tokens: int
    ) -> tuple[ImageMeasure, ...]:
        """What `prepare` would make of each image, from headers alone: nothing is decoded or cut.

        A file whose header is whole passes here even if `prepare` refuses the rest of it. Where there is
        no room for one tile an image, one is reckoned: that is the least they can take.

        Args:
            references: Where the images are to be had; none is fetched if there are too many.
            max_image_tokens: Prompt tokens all images may take.

        Raises:
            InvalidRequestError: More images than are allowed.
            ImageError: One image cannot be used; `param` is its reference's.
            EngineOverloadedError: The server is fetching too many images.
        """
        if not references:
            return ()
        least = len(references) * self._num_tokens_per_tile
        budget = self._tile_budget(len(references), max(max_image_tokens, least))
        sizes = await self._read_sizes(references, await self._load_all(references))
        caps = share_tiles(self._wanted(references), sizes, budget, tile_px=self._tile_px)
        return tuple(
            ImageMeasure(
                size, count_tiles(select_grid(*size, max_tiles=cap, tile_px=self._tile_px))
            )
            for size, cap in zip(sizes, caps, strict=True)
        )

    def _tile_budget(self, num_images: int, max_image_tokens: int | None) -> int:
        settings = self._settings
        most = min(settings.max_images, settings.max_tiles_per_request)
        if num_images > most:
            raise InvalidRequestError(
                f"The request has {num_images} images; at most {most} are allowed "
                "(media.max_images).",
                param="messages",
            )
        if max_image_tokens is None:
            return settings.max_tiles_per_request
        room = max_image_tokens // self._num_tokens_per_tile
        if num_images > room:
            raise ContextLengthExceededError(
                f"The request has {num_images} images, which take at least "
                f"{num_images * self._num_tokens_per_tile} tokens; {max(max_image_tokens, 0)} are "
                "left of the model's context. Send fewer images or less text.",
                param="messages",
            )
        return min(settings.max_tiles_per_request, room)

    async def _load_all(self, references: Sequence[ImageReference]) -> tuple[EncodedImage, ...]:
        slots = asyncio.Semaphore(self._settings.max_fetches_per_request)

        async def load(reference: ImageReference) -> EncodedImage:
            if is_data_url(reference.url):
                max_bytes = self._settings.max_image_bytes
                return EncodedImage(
                    split_data_url(reference.url, max_bytes=max_bytes, param=reference.param)
                )
            async with slots:
                return EncodedImage(await self._fetcher.fetch(reference.url, param=reference.param))

        return await _gather(map(load, references))

    async def _share(
        self, references: Sequence[ImageReference], images: Sequence[EncodedImage], budget: int
    ) -> tuple[int, ...]:
        """The cap of each image; their sizes are read only if the budget is short."""
        wanted = self._wanted(references)
        if fits_any_size(wanted, budget):
            return wanted
        sizes = await self._read_sizes(references, images)
        return share_tiles(wanted, sizes, budget, tile_px=self._tile_px)

    def _wanted(self, references: Sequence[ImageReference]) -> tuple[int, ...]:
        """The cap each image asks for."""
        return tuple(
            self._detail_tiles[reference.detail]
            if reference.max_tiles is None
            else reference.max_tiles
            for reference in references
        )

    async def _read_sizes(
        self, references: Sequence[ImageReference], images: Sequence[EncodedImage]
    ) -> tuple[tuple[int, int], ...]:
        return await _gather(
            _with_param(self._pool.read_size(image), reference.param)
            for reference, image in zip(references, images, strict=True)
        )


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


async def _with_param(result: Awaitable[T], param: str) -> T:
    """The result; an error about the image gets the place of the image."""
    try:
        return await result
    except ImageError as error:
        error.param = param
        raise


async def _gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> tuple[T, ...]:
    """All results in order; the first failure cancels the rest and is raised by itself."""
    failure: BaseException | None = None
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks.extend(group.create_task(coroutine) for coroutine in coroutines)
    except* ServerError as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure
    return tuple(task.result() for task in tasks)
