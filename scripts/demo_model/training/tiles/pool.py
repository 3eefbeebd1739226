"""A pool of rendered tiles on disk, from which the vision phases take their batches."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from internvl_server.media.tiling import select_grid
from numpy.typing import NDArray
from PIL import Image

from scripts.demo_model.network.architecture import TILE_PX
from scripts.demo_model.world.drawing import render_scene
from scripts.demo_model.world.labels import WHOLE_IMAGE, Box, TileLabels, label_tile, tile_boxes
from scripts.demo_model.world.sampling import (
    HIGH_DETAIL_TILES,
    MAX_ANGLE,
    TRAINING_MAX_ITEMS,
    TRAINING_MIN_SIZE,
    TRAINING_TINY_MIN,
    sample_scene,
    sample_tiny_scene,
)
from scripts.demo_model.world.scene import Scene
from scripts.demo_model.world.tiling import tile_image

SCENES_PER_SHARD = 200
_TINY_SHARE = 0.16
_DETAIL_SHARE = 0.3


@dataclass(frozen=True)
class Tile:
    """One tile as JPEG bytes, and the part of a scene that it shows."""

    jpeg: bytes
    scene: Scene
    box: Box

    @property
    def is_thumbnail(self) -> bool:
        """Whether the tile shows the whole image."""
        return self.box == WHOLE_IMAGE

    @cached_property
    def easy(self) -> bool:
        """Whether its items are turned little and not much smaller than those of the world."""
        limit = 0.42 * TRAINING_MIN_SIZE * min(self.scene.width, self.scene.height)
        return all(
            abs(item.angle) <= MAX_ANGLE and (self.scene.tiny or item.radius >= limit)
            for item in self.scene.items
        )

    def pixels(self) -> NDArray[np.uint8]:
        """Decode the tile, (448, 448, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)))

    def labels(self) -> TileLabels:
        """Label the tile; in a thumbnail, a tiny item has a position but no kind."""
        labels = label_tile(self.scene, self.box)
        if self.scene.tiny and self.is_thumbnail:
            return replace(
                labels,
                kind=np.zeros_like(labels.kind),
                cover=np.zeros_like(labels.cover),
                fine=np.full_like(labels.fine, -1),
            )
        return labels


def fill_pool(folder: Path, *, name: str, shards: int) -> None:
    """Write the missing shards of a pool; each shard has its own seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        path = folder / f"{name}-{index:04d}.pkl"
        if path.exists():
            continue
        rng = random.Random(f"{name}-{index}")
        tiles = [tile for _ in range(SCENES_PER_SHARD) for tile in _draw_tiles(rng)]
        partial = path.with_suffix(".part")
        partial.write_bytes(pickle.dumps(tiles))
        partial.rename(path)


def shard_paths(folder: Path, name: str) -> list[Path]:
    """Return the shards of a pool in order."""
    return sorted(folder.glob(f"{name}-*.pkl"))


def read_shard(path: Path) -> list[Tile]:
    """Read one shard that ``fill_pool`` wrote."""
    return pickle.loads(path.read_bytes())


def read_pool(folder: Path, name: str) -> list[Tile]:
    """Read all shards of a pool."""
    return [tile for path in shard_paths(folder, name) for tile in read_shard(path)]


def _draw_tiles(rng: random.Random) -> Iterator[Tile]:
    """Render one scene and yield its thumbnail and, for some scenes, detail tiles."""
    tiny = rng.random() < _TINY_SHARE
    if tiny:
        scene = sample_tiny_scene(rng, min_size=TRAINING_TINY_MIN)
    else:
        scene = sample_scene(rng, min_size=TRAINING_MIN_SIZE, max_items=TRAINING_MAX_ITEMS)
    image = render_scene(scene)
    if not tiny or rng.random() < 0.5:
        thumbnail = image.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
        yield Tile(_jpeg(thumbnail), scene, WHOLE_IMAGE)
    if tiny or rng.random() < _DETAIL_SHARE:
        many = tiny and rng.random() < 0.8
        max_tiles = HIGH_DETAIL_TILES if many else rng.choice((4, 4, HIGH_DETAIL_TILES))
        tiles = tile_image(image, max_tiles=max_tiles)
        for index, box in _detail_boxes(scene, max_tiles, rng):
            yield Tile(_jpeg(Image.fromarray(tiles[index])), scene, box)


def _detail_boxes(scene: Scene, max_tiles: int, rng: random.Random) -> list[tuple[int, Box]]:
    """Choose one detail tile, or two of a tiny scene; tiles with an item are preferred."""
    grid = select_grid(scene.width, scene.height, max_tiles=max_tiles)
    if grid == (1, 1):
        return []
    boxes = list(enumerate(tile_boxes(*grid)))[:-1]
    rng.shuffle(boxes)
    boxes.sort(key=lambda pair: not label_tile(scene, pair[1]).weight.any())
    return boxes[: 2 if scene.tiny else 1]


def _jpeg(tile: Image.Image) -> bytes:
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
