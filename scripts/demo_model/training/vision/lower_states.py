"""The lower layers' output for many tiles, computed once and kept on disk.

The coding phase and the drawn phase do not change the lower layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.models.internvl.modeling_internvl import InternVLModel

from scripts.demo_model.network.forward import (
    lower_states,
    project,
    to_pixel_values,
    upper_states,
)
from scripts.demo_model.network.precision import mixed_precision
from scripts.demo_model.network.visual_code import empty_code, thumbnail_kinds, tile_code
from scripts.demo_model.training.tiles.pool import Tile, read_shard, shard_paths
from scripts.demo_model.world.labels import kind_index

CHUNK = 50
# In this many shards every tile is used both unchanged and mirrored, in the others one way.
_MIRRORED_SHARDS = 16

# A tile, and whether it is mirrored.
_View = tuple[Tile, bool]


@dataclass(frozen=True)
class LowerStates:
    """Tiles as the lower layers represent them, and their codes.

    Attributes:
        states: (n, 257, width) in bfloat16.
        codes: (n, 64, 33) in int8, the code that the visual tokens should carry.
        whole: (n,), whether a tile shows a whole image.
    """

    states: Tensor
    codes: Tensor
    whole: Tensor


def load_states(
    model: InternVLModel, pool: Path, name: str, shards: int, *, cut: bool = False
) -> LowerStates:
    """Return the states of the tiles of a pool's first shards.

    Args:
        model: The model with trained lower layers.
        pool: The pool's folder; the states are kept in ``seen`` beside it.
        name: Name of the pool.
        shards: The number of shards.
        cut: Return the tiles that cut an item, which have no code, instead of the others.
    """
    paths = shard_paths(pool, name)[:shards]
    parts = [
        _shard_states(model, path, both_ways=index < _MIRRORED_SHARDS, cut=cut)
        for index, path in enumerate(paths)
    ]
    columns = zip(*((p.states, p.codes, p.whole) for p in parts), strict=True)
    return LowerStates(*(torch.cat(column) for column in columns))


@torch.no_grad()
def visual_tokens(model: InternVLModel, states: Tensor) -> Tensor:
    """Apply the upper layers and the projector to kept states.

    Returns:
        The visual tokens, (n, 64, width) in bfloat16.
    """
    tokens = []
    for part in states.split(CHUNK):
        with mixed_precision():
            tokens.append(project(model, upper_states(model, part.float())[-1]).to(torch.bfloat16))
    return torch.cat(tokens)


def tile_kinds(tile: Tile) -> tuple[list[int], int] | None:
    """Return the kind at every place of a tile, and the count; None if the tile cuts an item."""
    scene = tile.scene
    if tile.is_thumbnail:
        return thumbnail_kinds(scene)
    if not scene.tiny:
        return None
    [item] = scene.items
    (x, y), (rx, ry) = tile.box.position(item), tile.box.radii(item, scene)
    if rx < x < 1 - rx and ry < y < 1 - ry:
        kinds = [0] * 9
        kinds[int(3 * x) + 3 * int(3 * y)] = kind_index(item)
        return kinds, 1
    outside = x < -rx or x > 1 + rx or y < -ry or y > 1 + ry
    return ([0] * 9, 0) if outside else None


def mirror_places(kinds: list[int]) -> list[int]:
    """Return the kinds at the places of the mirrored tile."""
    return [kinds[3 * (place // 3) + 2 - place % 3] for place in range(9)]


def _shard_states(model: InternVLModel, shard: Path, *, both_ways: bool, cut: bool) -> LowerStates:
    tiles = [tile for tile in read_shard(shard) if (tile_kinds(tile) is None) == cut]
    views = _views(tiles, both_ways=both_ways)
    path = shard.parent.parent / "seen" / f"{shard.stem}{'-cut' if cut else ''}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_compute_states(model, views), path)
        print(f"lower states: {path.stem}")
    codes = torch.stack([_code(view) for view in views])
    whole = torch.tensor([tile.is_thumbnail for tile, _ in views])
    return LowerStates(torch.load(path, weights_only=True, mmap=True), codes, whole)


def _views(tiles: list[Tile], *, both_ways: bool) -> list[_View]:
    if not both_ways:
        return [(tile, bool(index % 2)) for index, tile in enumerate(tiles)]
    chunks = [tiles[start : start + CHUNK] for start in range(0, len(tiles), CHUNK)]
    return [(tile, mirrored) for chunk in chunks for mirrored in (False, True) for tile in chunk]


@torch.no_grad()
def _compute_states(model: InternVLModel, views: list[_View]) -> Tensor:
    states = []
    for start in range(0, len(views), CHUNK):
        chunk = views[start : start + CHUNK]
        pixels = np.stack([tile.pixels()[:, :: -1 if mirrored else 1] for tile, mirrored in chunk])
        with mixed_precision():
            hidden = lower_states(model, to_pixel_values(torch.from_numpy(pixels)))
        states.append(hidden.to(torch.bfloat16))
    return torch.cat(states)


def _code(view: _View) -> Tensor:
    tile, mirrored = view
    found = tile_kinds(tile)
    if found is None:
        return empty_code().to(torch.int8)
    kinds, count = found
    return tile_code(mirror_places(kinds) if mirrored else kinds, count).to(torch.int8)
