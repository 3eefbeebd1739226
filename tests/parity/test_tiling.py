"""Tile selection, tiles and pixel values against the goldens of scripts/make_goldens.py.

The reference is the authors' recipe as LMDeploy 0.18.0 runs it: Pillow's bicubic resize, torchvision's
`ToTensor` and `Normalize`. Tiles equal it byte for byte and pixel values bit for bit. The goldens were made
with Pillow 12: Pillow 13 resizes some shapes, photos of phones in portrait among them, otherwise than the
Pillow that the models were trained with.

Transformers' Pillow backend resizes alike and computes in another order (`x * (1 / 255)`), so its values
are within a few units in the last place. Its torchvision backend resizes uint8 tensors with torch's own
kernel, whose fixed-point weights are coarser than Pillow's: on these pictures up to 2 levels of 255
(mean under 0.02), and more where the side changes by a pixel only and a hard edge falls between two. No
implementation equals both; the authors' is the one to equal. The goldens record the distances.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from internvl_server.core import PixelValues
from internvl_server.media.pixels.levels import level_values
from internvl_server.media.tiling import count_tiles, select_grid

from tests.cut_tiles import cut_tiles
from tests.parity.pictures import CAPS, PIXEL_CASES, SIZES, make_picture, sample

GOLDENS = json.loads((Path(__file__).parents[1] / "data" / "tiling.json").read_text())
HF_PIL_TOLERANCE = 1e-6
TORCHVISION_MEAN_LEVELS = 0.3
LEVEL = 1 / 255 / 0.224  # one level of the channel with the smallest deviation, normalised

CASES = [pytest.param(case, id="{size[0]}x{size[1]}-{mode}-{max_tiles}".format(**case))
         for case in GOLDENS["pixels"]]  # fmt: skip


def values_of(case: dict[str, Any]) -> PixelValues:
    image = make_picture(case["size"][0], case["size"][1], case["mode"]).convert("RGB")
    return cut_tiles(image, case["max_tiles"])


def test_goldens_cover_all_pictures() -> None:
    assert len(GOLDENS["grids"]) == len(set(SIZES)) >= 60
    assert [(tuple(c["size"]), c["mode"], c["max_tiles"]) for c in GOLDENS["pixels"]] == list(
        PIXEL_CASES
    )


@pytest.mark.parametrize("size", GOLDENS["grids"])
def test_grid_and_tile_count(size: str) -> None:
    width, height = map(int, size.split("x"))
    for cap in CAPS:
        columns, rows, num_tiles = GOLDENS["grids"][size][str(cap)]
        grid = select_grid(width, height, max_tiles=cap)
        assert (*grid, count_tiles(grid)) == (columns, rows, num_tiles)


@pytest.mark.parametrize("case", CASES)
def test_tiles_equal_the_authors_byte_for_byte(case: dict[str, Any]) -> None:
    values = values_of(case)
    assert len(values) == case["num_tiles"]
    table = level_values()
    planes = [np.searchsorted(table[c], values[:, c]).astype(np.uint8) for c in range(3)]
    assert hashlib.sha256(np.stack(planes, axis=-1)).hexdigest() == case["uint8_sha256"]


@pytest.mark.parametrize("case", CASES)
def test_pixel_values_equal_the_authors_bit_for_bit(case: dict[str, Any]) -> None:
    values = values_of(case)
    assert sample(values) == case["lmdeploy_sample"]
    assert hashlib.sha256(values.tobytes()).hexdigest() == case["lmdeploy_float32_sha256"]


@pytest.mark.parametrize("case", CASES)
def test_pixel_values_are_near_those_of_transformers(case: dict[str, Any]) -> None:
    ours = np.array(sample(values_of(case)))
    assert np.abs(ours - case["hf_pil_sample"]).max() < HF_PIL_TOLERANCE
    most = (case["hf_torchvision_max_levels"] + 0.01) * LEVEL
    assert np.abs(ours - case["hf_torchvision_sample"]).max() <= most
    assert case["hf_torchvision_mean_levels"] < TORCHVISION_MEAN_LEVELS


@pytest.mark.parametrize("size", [(17, 31), (634, 634), (800, 600), (1344, 448)])
def test_transformers_as_it_is_installed(size: tuple[int, int]) -> None:
    """The live comparison: the processor of `-hf` checkpoints, Pillow backend."""
    module = pytest.importorskip("transformers.models.got_ocr2.image_processing_pil_got_ocr2")
    processor = module.GotOcr2ImageProcessorPil()
    image = make_picture(*size)
    theirs = processor(
        image,
        size={"height": 448, "width": 448},
        crop_to_patches=True,
        max_patches=12,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        return_tensors="np",
    )
    ours = cut_tiles(image, 12)
    assert ours.shape == theirs["pixel_values"].shape
    assert np.abs(ours - theirs["pixel_values"]).max() < HF_PIL_TOLERANCE
