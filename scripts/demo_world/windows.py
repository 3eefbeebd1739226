"""Small windows of tiles around single items: many more items to learn from for the same work.

Most of a tile is background. A window of 4x4 patches around an item costs a sixteenth of a tile
and shows as much of what is hard, the item's shape.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .drawing import Box, label_tile
from .pool import Batch, PoolTile
from .scenes import Item

SMALL, LARGE = 4, 8
_PATCH_PX = 28
# An item may reach a little over its window's edge.
_SPARE = 1.06


def _extent(tile: PoolTile, item: Item) -> tuple[float, float, float, float]:
    """Centre and radii of an item in parts of its tile."""
    box, scene = tile.box, tile.scene
    across, down = box.right - box.left, box.bottom - box.top
    return (
        (item.x - box.left) / across,
        (item.y - box.top) / down,
        item.radius / scene.width / across,
        item.radius / scene.height / down,
    )


def _start(centre: float, radius: float, size: float, rng: random.Random) -> float | None:
    """Where a window of that size may begin so that it holds the item; None if it cannot."""
    low, high = max(0.0, centre + radius - size), min(1.0 - size, centre - radius)
    return rng.uniform(low, high) if low <= high else None


def _inner(tile: PoolTile, left: float, top: float, size: float) -> Box:
    across, down = tile.box.right - tile.box.left, tile.box.bottom - tile.box.top
    return Box(
        tile.box.left + left * across,
        tile.box.top + top * down,
        tile.box.left + (left + size) * across,
        tile.box.top + (top + size) * down,
    )


Row = tuple[NDArray[np.generic], ...]


def _cut(
    tile: PoolTile, picture: Image.Image, box: Box, area: tuple[float, ...], patches: int
) -> Row:
    side = patches * _PATCH_PX
    pixels = picture.resize((side, side), Image.Resampling.BICUBIC, box=area)
    labels = label_tile(tile.scene, box, patches)
    fine, geometry = labels.fine.astype(np.int8), labels.geometry
    whole = np.full(9, -1, np.int64)
    return np.asarray(pixels), labels.weight, labels.kind, labels.cover, whole, fine, geometry


def cut_windows(tile: PoolTile, patches: int, rng: random.Random) -> Iterator[Row]:
    """A window around each item of a tile.

    Items too large for a small window are shown at half or a third of their size.
    """
    picture = Image.fromarray(tile.pixels())
    if tile.scene.tiny and tile.box == Box():
        return
    for item in tile.scene.items:
        x, y, rx, ry = _extent(tile, item)
        if not (0 < x < 1 and 0 < y < 1):
            continue
        for shrink in (1, 2, 3):
            size = patches * _PATCH_PX * shrink / 448
            left, top = _start(x, rx / _SPARE, size, rng), _start(y, ry / _SPARE, size, rng)
            if left is not None and top is not None:
                left, top = round(left * 448) / 448, round(top * 448) / 448
                area = tuple(448 * v for v in (left, top, left + size, top + size))
                yield _cut(tile, picture, _inner(tile, left, top, size), area, patches)
                break


class Windows:
    """Windows of one size, cut once and kept."""

    def __init__(self, tiles: list[PoolTile], patches: int, rng: random.Random) -> None:
        rows = [row for tile in tiles for row in cut_windows(tile, patches, rng)]
        self.patches = patches
        self._columns = [np.stack(column) for column in zip(*rows, strict=True)]

    def __len__(self) -> int:
        return len(self._columns[0])

    def batch(self, count: int, rng: random.Random) -> tuple[Batch, Tensor]:
        """Random windows, mirrored or not, and the first patch they are said to begin at."""
        index = np.array(rng.sample(range(len(self)), count))
        pixels, weight, kind, cover, whole, fine, geometry = (c[index] for c in self._columns)
        if rng.random() < 0.5:
            pixels, weight, kind, cover = (a[:, :, ::-1] for a in (pixels, weight, kind, cover))
            fine, geometry = (
                fine[:, :, ::-1, :, ::-1],
                geometry[:, :, ::-1] * np.float32([-1, 1, 1, 1]),
            )
        arrays = (pixels, weight, kind, cover, whole, fine.astype(np.int64), geometry)
        last = (16 - self.patches) // 2
        origins = [[2 * rng.randint(0, last), 2 * rng.randint(0, last)] for _ in range(count)]
        return Batch(*(torch.from_numpy(a.copy()) for a in arrays)), torch.tensor(origins)
