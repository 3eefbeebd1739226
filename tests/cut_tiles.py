"""Tiles as a decode worker writes them, made in this process."""

import numpy as np
from internvl_server.core import PixelValues
from internvl_server.media.pixels.tiler import PixelFormat, Tiler
from internvl_server.media.tiling import count_tiles, select_grid
from PIL import Image

__all__ = ["cut_tiles"]


def cut_tiles(
    image: Image.Image,
    max_tiles: int,
    pixel_format: PixelFormat = PixelFormat(),  # noqa: B008 - immutable
    tile_px: int = 448,
) -> PixelValues:
    """The pixel values of an RGB image."""
    grid = select_grid(*image.size, max_tiles=max_tiles, tile_px=tile_px)
    shape = (count_tiles(grid), 3, tile_px, tile_px)
    tiles = np.empty(shape, pixel_format.type.storage)
    Tiler(tile_px, pixel_format).write(image, grid, tiles)
    return tiles
