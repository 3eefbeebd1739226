import numpy as np
import pytest
import torch
from internvl_server.core import PixelType
from internvl_server.media.pixels.levels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    level_values,
    pair_tables,
)


def torch_values(pixel_type: PixelType) -> torch.Tensor:
    """What torchvision's ToTensor and Normalize do, rounded by torch as LMDeploy does."""
    levels = torch.arange(256, dtype=torch.uint8).expand(3, -1)
    mean, std = (torch.tensor(v).view(-1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    values = levels.to(torch.float32).div(255).sub_(mean).div_(std)
    return values.to(getattr(torch, pixel_type))


@pytest.mark.parametrize("pixel_type", PixelType)
def test_values_equal_torchs_bit_for_bit(pixel_type: PixelType) -> None:
    values = level_values(pixel_type)
    assert values.shape == (3, 256)
    assert values.dtype == pixel_type.storage
    ours = torch.from_numpy(values).view(getattr(torch, pixel_type))
    assert torch.equal(ours, torch_values(pixel_type))


@pytest.mark.parametrize("pixel_type", PixelType)
def test_a_pair_has_the_values_of_both_its_levels_in_order(pixel_type: PixelType) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 1000), dtype=np.uint8)
    singles = level_values(pixel_type)
    for table, single, row in zip(pair_tables(pixel_type), singles, levels, strict=True):
        found = table[row.view(np.uint16)].view(pixel_type.storage)
        assert np.array_equal(found, single[row])
