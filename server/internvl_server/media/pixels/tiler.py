"""Cut RGB images into tiles of normalised values, written where the engine's copy begins."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from internvl_server.core import PixelType, PixelValues
from internvl_server.media.pixels.levels import pair_tables
from internvl_server.media.pixels.resizing import ExactResizer, FastResizer, Resizer

__all__ = ["PixelFormat", "Tiler"]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The type of pixel values, and whether images are resized by `FastResizer`."""

    type: PixelType = PixelType.FLOAT32
    is_fast: bool = False


class Tiler:
    """Writes the tiles of images in the layout and type of an engine's `pixel_values`.

    A value is looked up, not computed: two neighbouring levels are the index of two finished values.

    Args:
        tile_px: Side of a tile in pixels. It is even, because a tile has an even number of patches.
        pixel_format: Type of the values, and resizer.
    """

    def __init__(self, tile_px: int, pixel_format: PixelFormat) -> None:
        assert tile_px % 2 == 0, f"tiles of {tile_px} px have no pairs"
        self._tile_px = tile_px
        self._tables = pair_tables(pixel_format.type)
        self._resizer: Resizer = FastResizer() if pixel_format.is_fast else ExactResizer()

    def write(self, image: Image.Image, grid: tuple[int, int], tiles: PixelValues) -> None:
        """Write the tiles of one image.

        Args:
            image: RGB, 8 bit, upright.
            grid: (columns, rows) to cut it into.
            tiles: (num_tiles, 3, tile_px, tile_px), contiguous, in the storage type of the pixel type: the
                grid in row-major order, followed by the thumbnail if there is room for one.
        """
        num_tiles = grid[0] * grid[1]
        self._write_part(image, grid, tiles[:num_tiles])
        if len(tiles) > num_tiles:
            self._write_part(image, (1, 1), tiles[num_tiles:])

    def _write_part(self, image: Image.Image, grid: tuple[int, int], tiles: PixelValues) -> None:
        px, (columns, rows) = self._tile_px, grid
        planes = self._resizer.planes(image, (columns * px, rows * px))
        for channel, (table, plane) in enumerate(zip(self._tables, planes, strict=True)):
            pairs = plane.view(np.uint16).reshape(rows, px, columns, px // 2)
            for index, tile in enumerate(tiles.view(table.dtype)):
                row, column = divmod(index, columns)
                # In the mode "raise", numpy would write to a buffer first.
                np.take(table, pairs[row, :, column], out=tile[channel], mode="clip")
