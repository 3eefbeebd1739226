"""The normalised value of each of the 256 levels of a channel, as tables."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from internvl_server.core import PixelType, PixelValues

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "PairTables", "level_values", "pair_tables"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PairTables: TypeAlias = list[npt.NDArray[np.uint32 | np.uint64]]

_NUM_LEVELS = 256


def level_values(pixel_type: PixelType = PixelType.FLOAT32) -> PixelValues:
    """The values of all levels of each channel: (3, 256), in the storage type of the pixel type.

    The arithmetic is torchvision's `ToTensor` and `Normalize`, operation by operation in float32, and values
    of 16 bits are rounded to the nearest, ties to even, so that the results equal theirs bit for bit
    (tests/unit/media/pixels/test_levels.py).
    """
    levels = np.arange(_NUM_LEVELS, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(v, dtype=np.float32).reshape(3, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    values = (levels - mean) / std
    if pixel_type is not PixelType.BFLOAT16:
        return values.astype(pixel_type.storage)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def pair_tables(pixel_type: PixelType) -> PairTables:
    """For each channel the values of all pairs of levels, so that one look-up writes two values.

    The index of a pair is its two bytes as a uint16 of this machine; an entry is its two values as one
    integer.
    """
    pairs = np.arange(_NUM_LEVELS**2, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    entry = np.dtype(f"u{2 * pixel_type.storage.itemsize}")
    return [values[pairs].view(entry).reshape(-1) for values in level_values(pixel_type)]
