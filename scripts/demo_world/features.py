"""Visual tokens of many pictures, computed once with the trained vision tower and kept.

The language phase reads them instead of pixels, which saves most of its work.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.internvl.modeling_internvl import InternVLModel

from server.media.tiling import select_grid, tile_image

from .drawing import Box, draw_scene
from .modelling import image_features, to_pixels
from .pool import Pool, PoolTile, make_batch
from .scenes import COLOURS, PLACES, SHAPES, Item, Scene, sample_scene, sample_tiny_scene


@dataclass(frozen=True)
class Picture:
    """What is on a picture, and its visual tokens.

    Attributes:
        scene: What can be asked about.
        features: (tiles, 64, width) in bfloat16; the last tile shows the whole picture.
    """

    scene: Scene
    features: Tensor

    @property
    def resolved(self) -> bool:
        """Whether there are detail tiles beside the whole picture."""
        return len(self.features) > 1


@torch.no_grad()
def encode_tiles(model: InternVLModel, tiles: Tensor) -> Tensor:
    """Visual tokens of uint8 tiles in bfloat16."""
    parts = []
    for chunk in tiles.split(48):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(image_features(model, to_pixels(chunk)).to(torch.bfloat16))
    return torch.cat(parts)


def scene_of(places: NDArray[np.int64]) -> Scene:
    """A scene with no more than what questions need, from the labels of its places."""
    items = []
    for place in range(len(PLACES)):
        if places[place] > 0:
            shape, colour = divmod(int(places[place]) - 1, len(COLOURS))
            items.append(Item(SHAPES[shape], COLOURS[colour], (0, 0, 0), 0, 0, 0, 0, place))
    return Scene(0, 0, (0, 0, 0), tuple(items))


def encode_pool(model: InternVLModel, pool: Pool, rounds: int, seed: str) -> list[Picture]:
    """Single-tile pictures: the pool's whole pictures, mirrored anew in every round."""
    rng = random.Random(seed)
    whole = [t for t in pool.tiles if t.box == Box() and not t.scene.tiny and t.easy]
    pictures: list[Picture] = []
    for chunk in _chunks(whole * rounds, 48):
        batch = make_batch(chunk, rng)
        for tokens, places in zip(encode_tiles(model, batch.tiles), batch.places, strict=True):
            pictures.append(Picture(scene_of(places.numpy()), tokens[None].clone()))
    return pictures


def _chunks(tiles: list[PoolTile], size: int) -> Iterator[list[PoolTile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def _draw_one(task: tuple[str, bool, int]) -> tuple[Scene, NDArray[np.uint8]]:
    """Draw a picture that is cut into several tiles."""
    seed, tiny, max_tiles = task
    rng = random.Random(seed)
    while True:
        scene = sample_tiny_scene(rng) if tiny else sample_scene(rng)
        if select_grid(scene.width, scene.height, max_tiles=max_tiles) != (1, 1):
            return scene, tile_image(draw_scene(scene), max_tiles=max_tiles).pixels


def encode_drawn(
    model: InternVLModel, name: str, count: int, *, tiny: bool, max_tiles: int
) -> list[Picture]:
    """Pictures drawn for this and tiled as the server does it.

    Args:
        model: The trained vision tower and projector.
        name: Seeds the scenes; another name gives other scenes.
        count: How many pictures.
        tiny: Whether to draw large pictures of one tiny shape.
        max_tiles: The most tiles of a picture, the whole picture not counted.
    """
    tasks = [(f"{name}-{tiny}-{max_tiles}-{index}", tiny, max_tiles) for index in range(count)]
    drawn = _in_two_processes(tasks)
    return [Picture(scene, encode_tiles(model, torch.from_numpy(tiles))) for scene, tiles in drawn]


def _in_two_processes(
    tasks: list[tuple[str, bool, int]],
) -> Iterable[tuple[Scene, NDArray[np.uint8]]]:
    """Draw in the background, a few hundred pictures ahead of the encoder at most."""
    with ProcessPoolExecutor(2) as executor:
        for start in range(0, len(tasks), 60):
            yield from executor.map(_draw_one, tasks[start : start + 60], chunksize=6)


@dataclass(frozen=True)
class Library:
    """All pictures of the language phase.

    Attributes:
        single: One tile each.
        multi: Several tiles each, drawn and cut as the server does it.
        tiny: Large pictures of one tiny shape with their detail tiles.
    """

    single: list[Picture]
    multi: list[Picture]
    tiny: list[Picture]


def build_library(
    model: InternVLModel, pool_folder: Path, *, name: str, scale: float, rounds: int
) -> Library:
    """Encode everything that the language phase asks about."""
    pool = Pool(pool_folder, name)
    pool.refresh()
    single = encode_pool(model, pool, rounds, name)
    print(f"features: {len(single)} single tiles", flush=True)
    multi = encode_drawn(model, name, round(900 * scale), tiny=False, max_tiles=4)
    multi += encode_drawn(model, name, round(50 * scale), tiny=False, max_tiles=12)
    print(f"features: {len(multi)} pictures of several tiles", flush=True)
    tiny = encode_drawn(model, name, round(320 * scale), tiny=True, max_tiles=12)
    tiny += encode_drawn(model, name, round(60 * scale), tiny=True, max_tiles=4)
    print(f"features: {len(tiny)} tiny shapes", flush=True)
    return Library(single, multi, tiny)


def load_library(
    model: InternVLModel, pool_folder: Path, cache: Path, *, name: str, scale: float, rounds: int
) -> Library:
    """The library from its file, built first if the file is not there."""
    if not cache.exists():
        library = build_library(model, pool_folder, name=name, scale=scale, rounds=rounds)
        torch.save(library, cache)
    return torch.load(cache, weights_only=False)
