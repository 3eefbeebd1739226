import numpy as np
import pytest
from internvl_server.core import ImageTiles
from internvl_server.media.pixels import IMAGENET_MEAN, IMAGENET_STD, to_pixel_values


def make_tiles(*counts: int, tile_px: int = 32) -> list[ImageTiles]:
    random = np.random.default_rng(0)
    return [
        ImageTiles(
            pixels=random.integers(0, 256, (count, tile_px, tile_px, 3), dtype=np.uint8),
            grid=(count, 1),
            size=(1, 1),
        )
        for count in counts
    ]


@pytest.mark.parametrize("counts", [(1,), (13,), (1, 3, 2)])
def test_values_are_normalised_channels_first_in_order(counts: tuple[int, ...]) -> None:
    tiles = make_tiles(*counts)
    values = to_pixel_values(tiles)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert values.shape == (sum(counts), 3, 32, 32)
    pixels = np.concatenate([image.pixels for image in tiles]).astype(np.float64) / 255
    expected = ((pixels - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2)
    assert np.allclose(values, expected, rtol=0, atol=1e-6)


def test_mean_and_std_can_be_given() -> None:
    values = to_pixel_values(make_tiles(1), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert values.min() >= 0
    assert values.max() <= 1


def test_equals_the_torch_arithmetic_bit_for_bit() -> None:
    """What torchvision's ToTensor and Normalize do, for every level of every channel."""
    import torch

    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3)
    tensor = torch.from_numpy(levels[0]).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    tensor.sub_(mean).div_(std)
    values = to_pixel_values([ImageTiles(pixels=levels, grid=(1, 1), size=(16, 16))])
    assert np.array_equal(values[0], tensor.numpy())
