"""How InternVL cuts an image into a grid of square tiles.

Source of the algorithm: `dynamic_preprocess` as published with InternVL 1.5 and later (OpenGVLab);
tests/parity/test_tiling.py compares it with two published implementations.
"""

from functools import lru_cache

__all__ = ["TILE_PX", "count_tiles", "select_grid"]

TILE_PX = 448


@lru_cache(maxsize=64)
def _candidate_grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with columns * rows <= max_tiles, by ascending tile count."""
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
    ]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)))


def select_grid(
    width: int, height: int, *, max_tiles: int, tile_px: int = TILE_PX
) -> tuple[int, int]:
    """The (columns, rows) whose aspect ratio is closest to the image's.

    On a tie the later, larger grid wins if the image's area exceeds half of that grid's.

    Args:
        width: Image width in pixels, at least 1.
        height: Image height in pixels, at least 1.
        max_tiles: Upper bound for columns * rows, at least 1.
        tile_px: Side of a tile in pixels.
    """
    aspect_ratio = width / height
    area = width * height
    best, best_difference = (1, 1), float("inf")
    for columns, rows in _candidate_grids(max_tiles):
        difference = abs(aspect_ratio - columns / rows)
        is_closer = difference < best_difference
        is_tie = difference == best_difference
        if is_closer or (is_tie and area > 0.5 * tile_px * tile_px * columns * rows):
            best, best_difference = (columns, rows), difference
    return best


def count_tiles(grid: tuple[int, int]) -> int:
    """Number of tiles of a grid; a grid of more than one tile adds a thumbnail."""
    num_tiles = grid[0] * grid[1]
    return num_tiles + 1 if num_tiles > 1 else num_tiles
