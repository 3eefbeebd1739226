import numpy as np
import pytest
from internvl_server.core import PixelType
from internvl_server.media.pixels.levels import level_values
from internvl_server.media.pixels.tiler import PixelFormat, Tiler
from internvl_server.media.tiling import count_tiles, select_grid
from PIL import Image

from tests.cut_tiles import cut_tiles
from tests.unit.media.conftest import make_image


def pillow_tiles(image: Image.Image, grid: tuple[int, int], tile_px: int) -> np.ndarray:
    """The levels of the tiles, channels first, cut one by one."""
    columns, rows = grid
    wide = image.resize((columns * tile_px, image.height), Image.Resampling.BICUBIC)
    resized = wide.resize((columns * tile_px, rows * tile_px), Image.Resampling.BICUBIC)
    boxes = [
        (x * tile_px, y * tile_px, (x + 1) * tile_px, (y + 1) * tile_px)
        for y in range(rows)
        for x in range(columns)
    ]
    tiles = [np.asarray(resized.crop(box)).transpose(2, 0, 1) for box in boxes]
    return np.stack(tiles)


@pytest.mark.parametrize("pixel_type", PixelType)
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 1), (1, 2)])
def test_tiles_are_in_row_major_order_with_the_thumbnail_last(
    grid: tuple[int, int], pixel_type: PixelType
) -> None:
    image = make_image(130, 90)
    num_tiles = grid[0] * grid[1] + (grid != (1, 1))
    tiles = np.empty((num_tiles, 3, 28, 28), pixel_type.storage)
    Tiler(28, PixelFormat(pixel_type)).write(image, grid, tiles)
    levels = pillow_tiles(image, grid, 28)
    if grid != (1, 1):
        levels = np.concatenate([levels, pillow_tiles(image, (1, 1), 28)])
    values = level_values(pixel_type)
    for channel in range(3):
        assert np.array_equal(tiles[:, channel], values[channel][levels[:, channel]])


@pytest.mark.parametrize("is_fast", [False, True])
def test_one_tiler_cuts_many_images(is_fast: bool) -> None:
    form = PixelFormat(PixelType.BFLOAT16, is_fast)
    tiler = Tiler(28, form)
    for width, height in ((300, 200), (28, 28), (28, 500), (500, 28), (1, 1), (84, 56), (300, 200)):
        image = make_image(width, height)
        grid = select_grid(width, height, max_tiles=6, tile_px=28)
        tiles = np.empty((count_tiles(grid), 3, 28, 28), np.uint16)
        tiler.write(image, grid, tiles)
        assert np.array_equal(tiles, cut_tiles(image, 6, form, tile_px=28))
