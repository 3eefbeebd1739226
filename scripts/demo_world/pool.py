"""A pool of drawn and labelled tiles that a background process fills for the vision phase."""

from __future__ import annotations

import io
import pickle
import random
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from internvl_server.media.tiling import select_grid, tile_image
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .drawing import Box, TileLabels, draw_scene, label_tile, tile_boxes
from .scenes import (
    MAX_ANGLE,
    TRAINING_MAX_ITEMS,
    TRAINING_MIN_SIZE,
    TRAINING_TINY_MIN,
    Scene,
    sample_scene,
    sample_tiny_scene,
)

SHARD = 200
_TINY_PART = 0.16
_DETAIL_PART = 0.3


@dataclass(frozen=True)
class PoolTile:
    """One tile as JPEG bytes, and what part of which scene it shows."""

    jpeg: bytes
    scene: Scene
    box: Box

    @cached_property
    def easy(self) -> bool:
        """Whether its items are hardly turned and not too small, as in the world or nearly."""
        limit = 0.42 * TRAINING_MIN_SIZE * min(self.scene.width, self.scene.height)
        return all(
            abs(item.angle) <= MAX_ANGLE and (self.scene.tiny or item.radius >= limit)
            for item in self.scene.items
        )

    def pixels(self) -> NDArray[np.uint8]:
        """The decoded tile."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)))

    def labels(self) -> TileLabels:
        """The tile's labels; a tiny shape on the whole picture is there, but cannot be named."""
        labels = label_tile(self.scene, self.box)
        if self.scene.tiny and self.box == Box():
            return replace(
                labels,
                kind=np.zeros_like(labels.kind),
                cover=np.zeros_like(labels.cover),
                fine=np.full_like(labels.fine, -1),
            )
        return labels


@dataclass(frozen=True)
class Batch:
    """A batch of tiles and their labels as tensors."""

    tiles: Tensor
    weight: Tensor
    kind: Tensor
    cover: Tensor
    places: Tensor
    fine: Tensor
    geometry: Tensor


def _pack(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.resize((448, 448), Image.Resampling.BICUBIC))


def _detail_boxes(scene: Scene, max_tiles: int, rng: random.Random) -> list[tuple[int, Box]]:
    """One detail tile of a picture, two of a tiny scene; those that hold an item come first."""
    grid = select_grid(scene.width, scene.height, max_tiles=max_tiles)
    if grid == (1, 1):
        return []
    boxes = list(enumerate(tile_boxes(*grid)))[:-1]
    rng.shuffle(boxes)
    boxes.sort(key=lambda pair: not label_tile(scene, pair[1]).weight.any())
    return boxes[: 2 if scene.tiny else 1]


def draw_pool_tiles(rng: random.Random) -> list[PoolTile]:
    """Draw one scene and keep the whole picture and, for some, detail tiles."""
    tiny = rng.random() < _TINY_PART
    if tiny:
        scene = sample_tiny_scene(rng, min_size=TRAINING_TINY_MIN)
    else:
        scene = sample_scene(rng, min_size=TRAINING_MIN_SIZE, max_items=TRAINING_MAX_ITEMS)
    picture = draw_scene(scene)
    tiles = []
    if not tiny or rng.random() < 0.5:
        tiles.append(PoolTile(_pack(_thumbnail(picture)), scene, Box()))
    if tiny or rng.random() < _DETAIL_PART:
        max_tiles = 12 if tiny and rng.random() < 0.8 else rng.choice((4, 4, 12))
        cut = tile_image(picture, max_tiles=max_tiles)
        for index, box in _detail_boxes(scene, max_tiles, rng):
            tiles.append(PoolTile(_pack(cut.pixels[index]), scene, box))
    return tiles


def fill_pool(folder: Path, *, name: str, shards: int) -> None:
    """Write shards of tiles, each from its own seed; shards that exist are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        path = folder / f"{name}-{index:04d}.pkl"
        if path.exists():
            continue
        rng = random.Random(f"{name}-{index}")
        tiles = [tile for _ in range(SHARD) for tile in draw_pool_tiles(rng)]
        partial = path.with_suffix(".part")
        partial.write_bytes(pickle.dumps(tiles))
        partial.rename(path)


class Pool:
    """The tiles drawn so far; new shards are picked up while training goes on."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._seen: set[Path] = set()
        self.tiles: list[PoolTile] = []

    def refresh(self) -> None:
        """Read the shards that were written since the last call."""
        for path in sorted(self._folder.glob(f"{self._name}-*.pkl")):
            if path not in self._seen:
                self._seen.add(path)
                self.tiles += pickle.loads(path.read_bytes())


def _turned(tile: PoolTile, turn: int) -> tuple[NDArray[np.generic], ...]:
    """Pixels and labels, mirrored left to right if ``turn`` is 1."""
    labels = tile.labels()
    maps = [tile.pixels(), labels.weight, labels.kind, labels.cover, labels.places.reshape(3, 3)]
    fine, geometry = labels.fine, labels.geometry
    if turn:
        maps, fine = [m[:, ::-1] for m in maps], fine[:, ::-1, :, ::-1]
        geometry = geometry[:, ::-1] * _FLIP
    return (*maps[:4], maps[4].reshape(9), fine, geometry)


_FLIP = np.array([-1, 1, 1, 1], np.float32)


def make_batch(tiles: list[PoolTile], rng: random.Random | None) -> Batch:
    """Decode tiles into a batch, half of them mirrored when ``rng`` is given."""
    turns = [int(rng is not None and rng.random() < 0.5) for _ in tiles]
    rows = [_turned(tile, turn) for tile, turn in zip(tiles, turns, strict=True)]
    return Batch(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))
