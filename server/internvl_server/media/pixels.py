"""Tiles to the input of a vision encoder: normalised floats, channels first."""

from collections.abc import Sequence

import numpy as np

from internvl_server.core import ImageTiles, PixelValues

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "to_pixel_values"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_pixel_values(
    tiles: Sequence[ImageTiles],
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> PixelValues:
    """Normalise the tiles of all images of a request.

    The arithmetic is torchvision's `ToTensor` and `Normalize`, operation by operation in float32, so
    the result equals theirs bit for bit (tests/unit/media/test_pixels.py). It works plane by plane in
    place, takes about 0.6 ms per tile, and releases the interpreter lock most of that time.

    Args:
        tiles: At least one image; all tiles of the same side.
        mean: Subtracted from each channel, RGB, on a scale of 0 to 1.
        std: Divides each channel afterwards.

    Returns:
        float32, (total tiles, 3, tile_px, tile_px), contiguous, in the order of the images.
    """
    tile_px = tiles[0].pixels.shape[1]
    num_tiles = sum(image.num_tiles for image in tiles)
    values = np.empty((num_tiles, 3, tile_px, tile_px), dtype=np.float32)
    planes = iter(values)
    for image in tiles:
        for tile in image.pixels:
            for channel, plane in enumerate(next(planes)):
                np.divide(tile[:, :, channel], np.float32(255), out=plane, dtype=np.float32)
                np.subtract(plane, np.float32(mean[channel]), out=plane)
                np.divide(plane, np.float32(std[channel]), out=plane)
    return values
