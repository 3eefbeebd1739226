"""Allocate a number of tiles to the images of one request."""

from bisect import bisect_right
from collections.abc import Sequence

from internvl_server.media.tiling import TILE_PX, count_tiles, select_grid

__all__ = ["allocate_tiles"]


def allocate_tiles(
    max_tiles: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    budget: int,
    *,
    tile_px: int = TILE_PX,
) -> tuple[int, ...]:
    """Lower the caps of the images until all of them together fit the budget.

    One limit applies to all caps, the highest that fits: the images with the largest caps lose tiles first,
    equal images stay equal, and an image with a cap below the limit loses nothing. A smaller cap never
    yields more tiles, so the limit is found by bisection.

    Args:
        max_tiles: The requested cap of each image, at least 1, without the thumbnail.
        sizes: Width and height of each upright image in pixels.
        budget: Most tiles of all images, thumbnails included; at least one per image.
        tile_px: Side of a tile in pixels.

    Returns:
        The cap of each image, at least 1.
    """
    assert len(max_tiles) <= budget, f"{len(max_tiles)} images cannot share {budget} tiles"

    def total(limit: int) -> int:
        return sum(
            count_tiles(select_grid(width, height, max_tiles=min(cap, limit), tile_px=tile_px))
            for cap, (width, height) in zip(max_tiles, sizes, strict=True)
        )

    limits = range(1, max(max_tiles, default=1) + 1)
    limit = bisect_right(limits, budget, key=total)
    return tuple(min(cap, limit) for cap in max_tiles)
