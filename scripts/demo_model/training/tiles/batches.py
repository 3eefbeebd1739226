"""Batches of tiles and their labels, some of them mirrored."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.demo_model.training.tiles.pool import Tile

# The horizontal offset of ``TileLabels.geometry`` changes its sign in a mirrored tile.
MIRRORED_GEOMETRY = np.array([-1, 1, 1, 1], np.float32)


@dataclass(frozen=True)
class TileBatch:
    """A batch of tiles, (n, height, width, 3), and the labels of ``TileLabels`` stacked."""

    tiles: Tensor
    weight: Tensor
    kind: Tensor
    cover: Tensor
    places: Tensor
    fine: Tensor
    geometry: Tensor


def make_batch(tiles: list[Tile], rng: random.Random | None) -> TileBatch:
    """Decode and label tiles; half of them are mirrored if ``rng`` is given."""
    mirrored = [rng is not None and rng.random() < 0.5 for _ in tiles]
    rows = [_arrays(tile, mirror=m) for tile, m in zip(tiles, mirrored, strict=True)]
    columns = zip(*rows, strict=True)
    return TileBatch(*(torch.from_numpy(np.stack(column)) for column in columns))


def _arrays(tile: Tile, *, mirror: bool) -> tuple[NDArray[np.generic], ...]:
    labels, step = tile.labels(), -1 if mirror else 1
    geometry = labels.geometry[:, ::step]
    return (
        tile.pixels()[:, ::step],
        labels.weight[:, ::step],
        labels.kind[:, ::step],
        labels.cover[:, ::step],
        labels.places.reshape(3, 3)[:, ::step].reshape(9),
        labels.fine[:, ::step, :, ::step],
        geometry * MIRRORED_GEOMETRY if mirror else geometry,
    )
