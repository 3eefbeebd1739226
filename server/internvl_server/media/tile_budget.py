"""Allocate a number of tiles to the images of one request."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from internvl_server.media.tiling import TILE_PX, count_tiles, select_grid

__all__ = ["ImageBudget", "allocate_tiles"]

# Caps of the images of earlier turns, when not all tiles fit. They are few, so that from turn to turn most
# prompts begin like the one before, whose keys and values an engine may have cached.
_EARLIER_LIMITS = (24, 12, 6, 3, 1)


@dataclass(frozen=True, slots=True)
class ImageBudget:
    """The prompt tokens that the images and frames of a request may take.

    They share `shared_tokens`. If one tile each takes more than these, they get one tile each, and at most
    `max_tokens`. The first `num_earlier` images and videos belong to earlier turns of the conversation.
    """

    max_tokens: int
    shared_tokens: int
    num_earlier: int = 0


def allocate_tiles(
    max_tiles: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    budget: int,
    *,
    num_earlier: int = 0,
    tile_px: int = TILE_PX,
) -> tuple[int, ...]:
    """Lower the caps of the images until all of them together fit the budget.

    The images of earlier turns give way first: one limit applies to their caps, the highest of a few steps
    that leaves the newest images what they request. If not even one tile for each of the earlier images
    does, one limit applies to the caps of the newest images, the highest that fits: those with the largest
    caps lose tiles first, equal images stay equal, and an image with a cap below the limit loses nothing.

    Args:
        max_tiles: The requested cap of each image, at least 1, without the thumbnail.
        sizes: Width and height of each upright image in pixels.
        budget: Most tiles of all images, thumbnails included; at least one per image.
        num_earlier: How many of the images, the first ones, belong to earlier turns.
        tile_px: Side of a tile in pixels.

    Returns:
        The cap of each image, at least 1.
    """
    assert len(max_tiles) <= budget, f"{len(max_tiles)} images cannot share {budget} tiles"

    def limited(earlier_limit: int, newest_limit: int) -> tuple[int, ...]:
        limits = [earlier_limit] * num_earlier + [newest_limit] * (len(max_tiles) - num_earlier)
        return tuple(map(min, max_tiles, limits))

    def total(earlier_limit: int, newest_limit: int) -> int:
        return sum(
            count_tiles(select_grid(width, height, max_tiles=cap, tile_px=tile_px))
            for cap, (width, height) in zip(
                limited(earlier_limit, newest_limit), sizes, strict=True
            )
        )

    if len(max_tiles) == budget:
        return (1,) * budget
    most = max(max_tiles, default=1)
    if num_earlier:
        for earlier_limit in (most, *_EARLIER_LIMITS):
            if total(earlier_limit, most) <= budget:
                return limited(earlier_limit, most)
    # A smaller limit never yields more tiles, so the highest that fits is found by bisection.
    newest_limit = bisect_right(range(1, most + 1), budget, key=lambda limit: total(1, limit))
    return limited(1, newest_limit)
