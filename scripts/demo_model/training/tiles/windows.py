"""Small windows of tiles around single items.

Most of a tile is background. A window of 4x4 patches around an item costs a sixteenth of a tile
and shows the difficult part just as well: the item's shape.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scripts.demo_model.network.architecture import PATCH_PX, TILE_PX
from scripts.demo_model.training.tiles.batches import MIRRORED_GEOMETRY, TileBatch
from scripts.demo_model.training.tiles.pool import Tile
from scripts.demo_model.world.labels import PATCHES, Box, label_tile
from scripts.demo_model.world.scene import Item

# Patches of a window in each direction.
SMALL, LARGE = 4, 8
# An item may extend a little beyond its window.
_TOLERANCE = 1.06
# Items that are too large for a window are shown at a half or a third of their size.
_REDUCTIONS = (1, 2, 3)

_Row = tuple[NDArray[np.generic], ...]


class Windows:
    """All windows of one size, cut once and kept in memory."""

    def __init__(self, tiles: list[Tile], patches: int, rng: random.Random) -> None:
        rows = [row for tile in tiles for row in _cut_windows(tile, patches, rng)]
        self._patches = patches
        self._columns = [np.stack(column) for column in zip(*rows, strict=True)]

    def __len__(self) -> int:
        return len(self._columns[0])

    def batch(self, count: int, rng: random.Random) -> tuple[TileBatch, Tensor]:
        """Draw windows, all of them mirrored or none.

        Returns:
            The batch, and random origins (n, 2), the row and column of the patch at which each
            window claims to start.
        """
        index = np.array(rng.sample(range(len(self)), count))
        pixels, weight, kind, cover, places, fine, geometry = (c[index] for c in self._columns)
        if rng.random() < 0.5:
            pixels, weight, kind, cover = (a[:, :, ::-1] for a in (pixels, weight, kind, cover))
            fine = fine[:, :, ::-1, :, ::-1]
            geometry = geometry[:, :, ::-1] * MIRRORED_GEOMETRY
        arrays = (pixels, weight, kind, cover, places, fine.astype(np.int64), geometry)
        last = (PATCHES - self._patches) // 2
        origins = [[2 * rng.randint(0, last), 2 * rng.randint(0, last)] for _ in range(count)]
        return TileBatch(*(torch.from_numpy(a.copy()) for a in arrays)), torch.tensor(origins)


def _cut_windows(tile: Tile, patches: int, rng: random.Random) -> Iterator[_Row]:
    """Yield a window around each item of a tile."""
    if tile.scene.tiny and tile.is_thumbnail:
        return
    image = Image.fromarray(tile.pixels())
    for item in tile.scene.items:
        x, y = tile.box.position(item)
        if not (0 < x < 1 and 0 < y < 1):
            continue
        area = _choose_area(tile, item, patches, rng)
        if area is not None:
            yield _cut(tile, image, area, patches)


def _choose_area(tile: Tile, item: Item, patches: int, rng: random.Random) -> Box | None:
    """Choose a window that contains the item, in fractions of the tile; None if none can."""
    x, y = tile.box.position(item)
    rx, ry = tile.box.radii(item, tile.scene)
    for reduction in _REDUCTIONS:
        size = patches * PATCH_PX * reduction / TILE_PX
        left = _start(x, rx / _TOLERANCE, size, rng)
        top = _start(y, ry / _TOLERANCE, size, rng)
        if left is not None and top is not None:
            left, top = round(left * TILE_PX) / TILE_PX, round(top * TILE_PX) / TILE_PX
            return Box(left, top, left + size, top + size)
    return None


def _start(centre: float, radius: float, size: float, rng: random.Random) -> float | None:
    """Draw the start of a window that contains the item; None if the item is too large."""
    low, high = max(0.0, centre + radius - size), min(1.0 - size, centre - radius)
    return rng.uniform(low, high) if low <= high else None


def _cut(tile: Tile, image: Image.Image, area: Box, patches: int) -> _Row:
    side = patches * PATCH_PX
    pixel_area = tuple(TILE_PX * edge for edge in (area.left, area.top, area.right, area.bottom))
    pixels = image.resize((side, side), Image.Resampling.BICUBIC, box=pixel_area)
    labels = label_tile(tile.scene, _within(tile.box, area), patches)
    no_places = np.full(9, -1, np.int64)
    return (
        np.asarray(pixels),
        labels.weight,
        labels.kind,
        labels.cover,
        no_places,
        labels.fine.astype(np.int8),
        labels.geometry,
    )


def _within(box: Box, area: Box) -> Box:
    """Convert an area in fractions of a box to fractions of the image."""
    return Box(
        box.left + area.left * box.width,
        box.top + area.top * box.height,
        box.left + area.right * box.width,
        box.top + area.bottom * box.height,
    )
