"""`exact` and `fast` resizing against Pillow and torch, for many shapes and kinds of pictures.

`exact` equals the goldens of Pillow 12 (test_tiling.py). `fast` equals torch's antialiased resize of uint8
tensors, which transformers' processor of `-hf` checkpoints runs.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from internvl_server.media.pixels.resizing import ExactResizer, FastResizer, Resizer
from internvl_server.media.tiling import select_grid
from PIL import Image

from tests.parity.pictures import make_picture

SIZES = (
    (1, 1), (3, 1), (17, 31), (64, 64), (447, 449), (448, 448), (448, 900), (640, 480), (853, 480),
    (1080, 1920), (1170, 2532), (1344, 448), (1600, 900), (1920, 1080), (150, 3000), (4000, 300),
)  # fmt: skip


def noise(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def checkers(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(((x // 7 + y // 5) % 2 * 255).astype(np.uint8)).convert("RGB")


def planes(resizer: Resizer, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(3, height, width)."""
    found = [plane.copy() for plane in resizer.planes(image, size)]
    return np.stack(found).reshape(3, size[1], size[0])


def targets(image: Image.Image) -> list[tuple[int, int]]:
    columns, rows = select_grid(*image.size, max_tiles=12)
    return [(columns * 448, rows * 448), (448, 448)]


@pytest.mark.parametrize("kind", [make_picture, noise, checkers])
@pytest.mark.parametrize("size", SIZES)
def test_fast_is_within_two_levels_of_exact(
    size: tuple[int, int], kind: Callable[[int, int], Image.Image]
) -> None:
    image = kind(*size)
    for target in targets(image):
        exact = planes(ExactResizer(), image, target).astype(np.int16)
        levels = np.abs(planes(FastResizer(), image, target) - exact)
        assert levels.max() <= 2
        assert (levels <= 1).mean() > 0.999
        if kind is not checkers:
            assert (levels == 0).mean() > 0.98


@pytest.mark.parametrize("kind", [make_picture, noise, checkers])
@pytest.mark.parametrize("size", SIZES)
def test_fast_equals_torch(size: tuple[int, int], kind: Callable[[int, int], Image.Image]) -> None:
    image = kind(*size)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    for target in targets(image):
        theirs = torch.nn.functional.interpolate(
            tensor, target[::-1], mode="bicubic", antialias=True, align_corners=False
        )
        assert np.array_equal(planes(FastResizer(), image, target), theirs[0].numpy())
