"""Images to uint8 tiles, as the server cuts them."""

import numpy as np
from internvl_server.media.pixels.resizing import ExactResizer
from internvl_server.media.tiling import TILE_PX, select_grid
from PIL import Image

Tiles = np.ndarray[tuple[int, int, int, int], np.dtype[np.uint8]]


def tile_image(image: Image.Image, max_tiles: int) -> Tiles:
    """Tiles in row-major order, and the thumbnail if there are several: (num_tiles, TILE_PX, TILE_PX, 3)."""
    grid = select_grid(*image.size, max_tiles=max_tiles)
    parts = [_cut(image, grid)] if grid == (1, 1) else [_cut(image, grid), _cut(image, (1, 1))]
    return np.concatenate(parts)


def _cut(image: Image.Image, grid: tuple[int, int]) -> Tiles:
    columns, rows = grid
    planes = ExactResizer().planes(image, (columns * TILE_PX, rows * TILE_PX))
    resized = np.stack([plane.copy() for plane in planes], axis=-1)
    blocks = resized.reshape(rows, TILE_PX, columns, TILE_PX, 3)
    return blocks.swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX, 3)
