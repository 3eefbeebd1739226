"""Images to tiles, several per image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from internvl_server.core import Detail, ImageMeasure, ImageReference, ImageTiles
from internvl_server.media.cache import CachedPool
from internvl_server.media.encoded import EncodedMedia, Reservation
from internvl_server.media.sources.loader import RequestLoader, attach_param, gather
from internvl_server.media.tile_budget import allocate_tiles
from internvl_server.media.tiling import count_tiles, select_grid

__all__ = ["HIGH_DETAIL_TILES", "ImagePreparer", "ImageShare"]

MEDIUM_DETAIL_TILES = 6
HIGH_DETAIL_TILES = 12


@dataclass(frozen=True, slots=True)
class ImageShare:
    """The tiles that all images of a request may have; the first `num_earlier` images give way first."""

    num_tiles: int
    num_earlier: int = 0


@dataclass(frozen=True, slots=True)
class _TilePlan:
    """The tiling of one image: its upright size, and its numbers of tiles.

    `cap` and `grid` are without the thumbnail, the two numbers are with it.
    """

    size: tuple[int, int]
    cap: int
    grid: tuple[int, int]
    num_requested_tiles: int

    @property
    def num_tiles(self) -> int:
        return count_tiles(self.grid)


class ImagePreparer:
    """Decodes images in a pool that others start and close.

    Args:
        pool: Decodes and tiles.
        tile_px: Side of a tile in pixels.
        auto_max_tiles: Tiles of an image with `detail: auto`.
    """

    def __init__(self, pool: CachedPool, *, tile_px: int, auto_max_tiles: int) -> None:
        self._pool = pool
        self._tile_px = tile_px
        self._detail_tiles = {
            Detail.LOW: 1,
            Detail.MEDIUM: MEDIUM_DETAIL_TILES,
            Detail.AUTO: auto_max_tiles,
            Detail.HIGH: HIGH_DETAIL_TILES,
            Detail.ORIGINAL: HIGH_DETAIL_TILES,
        }

    async def prepare(
        self,
        references: Sequence[ImageReference],
        *,
        loader: RequestLoader,
        share: ImageShare,
        reservation: Reservation,
    ) -> tuple[ImageTiles, ...]:
        """Tile the images of a request, in order.

        Args:
            references: The images.
            loader: Loads them.
            share: The tiles that they may have.
            reservation: Their memory, which has the exact number of tiles in the end.

        Raises:
            ImageError: One cannot be used; `param` is its JSON path.
            EngineOverloadedError: There is no memory for as many tiles, or too much is being fetched.
        """
        images = await _load_all(references, loader)
        caps = [self._requested_cap(reference) for reference in references]
        most = _most_tiles(caps)
        if most <= share.num_tiles and reservation.has_tiles(most):
            prepared = await self._tile_all(references, images, caps)
            prepared = tuple(replace(t, num_requested_tiles=t.num_tiles) for t in prepared)
            reservation.limit_tiles(sum(tiles.num_tiles for tiles in prepared))
            return prepared
        plans = await self._plan_tiles(references, images, share)
        await reservation.resize_tiles(sum(plan.num_tiles for plan in plans))
        prepared = await self._tile_all(references, images, [plan.cap for plan in plans])
        return tuple(
            replace(tiles, num_requested_tiles=plan.num_requested_tiles)
            for tiles, plan in zip(prepared, plans, strict=True)
        )

    def most_tiles(self, references: Sequence[ImageReference], share: ImageShare) -> int:
        """The most tiles that `prepare` returns, whatever the sizes of the images are.

        If they have room, no header needs to be read before an image is decoded.
        """
        caps = [self._requested_cap(reference) for reference in references]
        return min(_most_tiles(caps), share.num_tiles)

    async def measure(
        self, references: Sequence[ImageReference], *, loader: RequestLoader, share: ImageShare
    ) -> tuple[ImageMeasure, ...]:
        """Count the tiles of `prepare` from the headers of the images. Raises the errors of `prepare`."""
        images = await _load_all(references, loader)
        return tuple(
            ImageMeasure(plan.size, plan.num_tiles, plan.num_requested_tiles, plan.grid)
            for plan in await self._plan_tiles(references, images, share)
        )

    async def _tile_all(
        self,
        references: Sequence[ImageReference],
        images: Sequence[EncodedMedia],
        caps: Sequence[int],
    ) -> tuple[ImageTiles, ...]:
        return await gather(
            attach_param(self._pool.tile(image, max_tiles=cap), reference.param)
            for reference, image, cap in zip(references, images, caps, strict=True)
        )

    async def _plan_tiles(
        self,
        references: Sequence[ImageReference],
        images: Sequence[EncodedMedia],
        share: ImageShare,
    ) -> list[_TilePlan]:
        """The tiling of each image within the share, from its size in its header."""
        sizes = await gather(
            attach_param(self._pool.read_size(image), reference.param)
            for reference, image in zip(references, images, strict=True)
        )
        requested = [self._requested_cap(reference) for reference in references]
        num_earlier, tile_px = share.num_earlier, self._tile_px
        caps = allocate_tiles(
            requested, sizes, share.num_tiles, num_earlier=num_earlier, tile_px=tile_px
        )
        return [
            _TilePlan(size, cap, self._grid(size, cap), count_tiles(self._grid(size, most)))
            for size, cap, most in zip(sizes, caps, requested, strict=True)
        ]

    def _grid(self, size: tuple[int, int], cap: int) -> tuple[int, int]:
        return select_grid(*size, max_tiles=cap, tile_px=self._tile_px)

    def _requested_cap(self, reference: ImageReference) -> int:
        """The tile cap that the image's `max_tiles` or `detail` requests."""
        if reference.max_tiles is not None:
            return reference.max_tiles
        return self._detail_tiles[reference.detail]


def _most_tiles(caps: Sequence[int]) -> int:
    """The tiles of images of any sizes, with their thumbnails."""
    return sum(cap + 1 if cap > 1 else 1 for cap in caps)


async def _load_all(
    references: Sequence[ImageReference], loader: RequestLoader
) -> tuple[EncodedMedia, ...]:
    return await gather(loader.load(r.url, param=r.param) for r in references)
