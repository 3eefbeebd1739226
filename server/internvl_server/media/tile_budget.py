"""Share a number of tiles among the images of one request."""

from bisect import bisect_right
from collections.abc import Sequence

from internvl_server.media.tiling import TILE_PX, count_tiles, select_grid

__all__ = ["allocate_tiles", "fits_worst_case"]


def fits_worst_case(max_tiles: Sequence[int], budget: int) -> bool:
    """Whether images with these caps fit the budget whatever their sizes, thumbnails included."""
    return sum(count_tiles((cap, 1)) for cap in max_tiles) <= budget


def allocate_tiles(
    max_tiles: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    budget: int,
    *,
    tile_px: int = TILE_PX,
) -> tuple[int, ...]:
    """Lower the caps of the images until all of them together fit the budget.

    One ceiling is put on every cap, the highest that fits: the images that ask for most give first,
    equal images stay equal, and one that asks for less than the ceiling loses nothing. A smaller cap
    never yields more tiles, so the ceiling is found by bisection.

    Args:
        max_tiles: The cap each image asks for, at least 1, without the thumbnail.
        sizes: Width and height of each upright image in pixels.
        budget: Most tiles of all images, thumbnails included; at least one an image.
        tile_px: Side of a tile in pixels.

    Returns:
        The cap of each image, at least 1.
    """
    assert len(max_tiles) <= budget, f"{len(max_tiles)} images cannot share {budget} tiles"

    def total(ceiling: int) -> int:
        return sum(
            count_tiles(select_grid(width, height, max_tiles=min(cap, ceiling), tile_px=tile_px))
            for cap, (width, height) in zip(max_tiles, sizes, strict=True)
        )

    ceilings = range(1, max(max_tiles, default=1) + 1)
    ceiling = bisect_right(ceilings, budget, key=total)
    return tuple(min(cap, ceiling) for cap in max_tiles)
