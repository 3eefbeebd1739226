"""Teach the vision tower's upper layers and the projector to write the code of visual tokens.

The lower layers, which know what every patch shows, stay as they are; what they make of many
tiles is computed once and kept, which saves most of the work.
"""

from __future__ import annotations

import pickle
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLModel

from . import symbols as s
from .drawing import Box, kind_index
from .modelling import (
    LOWER_LAYERS,
    WIDTH,
    load_state,
    lower_states,
    optimisers,
    save_state,
    set_rate,
    to_pixels,
    tokens_of,
    upper_states,
)
from .pool import PoolTile

BATCH = 40
# How much surer than the code's loudness the answers shall be.
_SHARPNESS = 8.0 / s.LOUDNESS
_EARLY_WIDTH = 8 + 4 + 1
_CHUNK = 50
# Of so many shards the tiles are looked at mirrored too, of the others one way or the other.
_TWICE = 16
_GROUPS = {"colour": (s.COLOUR, 8), "shape": (s.SHAPE, 4), "rank": (s.RANK, 4)}


def kinds_of(tile: PoolTile) -> tuple[list[int], int] | None:
    """What lies at every place of a tile, and the count; None if the tile cuts items."""
    scene, box = tile.scene, tile.box
    kinds = [0] * 9
    if box == Box():
        for item in () if scene.tiny else scene.items:
            kinds[item.place] = kind_index(item)
        return kinds, s.TINY_COUNT if scene.tiny else len(scene.items)
    if not scene.tiny:
        return None
    [item] = scene.items
    x, y = (item.x - box.left) / (box.right - box.left), (item.y - box.top) / (box.bottom - box.top)
    rx = item.radius / scene.width / (box.right - box.left)
    ry = item.radius / scene.height / (box.bottom - box.top)
    if rx < x < 1 - rx and ry < y < 1 - ry:
        kinds[int(3 * x) + 3 * int(3 * y)] = kind_index(item)
        return kinds, 1
    outside = x < -rx or x > 1 + rx or y < -ry or y > 1 + ry
    return (kinds, 0) if outside else None


def mirrored(kinds: list[int]) -> list[int]:
    """The places of a tile that was mirrored left to right."""
    return [kinds[3 * (place // 3) + 2 - place % 3] for place in range(9)]


@dataclass(frozen=True)
class Seen:
    """Tiles as the lower layers see them, and what they show.

    Attributes:
        states: (n, 257, width) in bfloat16.
        codes: (n, 64, 33) in int8, what the visual tokens shall say.
        whole: (n,), whether a tile is a whole picture.
    """

    states: Tensor
    codes: Tensor
    whole: Tensor


@torch.no_grad()
def look_at(model: InternVLModel, pixels: NDArray[np.uint8]) -> Tensor:
    """What the lower layers make of tiles."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return lower_states(model, to_pixels(torch.from_numpy(pixels))).to(torch.bfloat16)


View = tuple[PoolTile, bool]


def _views(tiles: list[PoolTile], *, twice: bool) -> list[View]:
    """Tiles and whether they are mirrored: each one way, or both ways."""
    if not twice:
        return [(tile, bool(index % 2)) for index, tile in enumerate(tiles)]
    chunks = [tiles[start : start + _CHUNK] for start in range(0, len(tiles), _CHUNK)]
    return [(tile, turn) for chunk in chunks for turn in (False, True) for tile in chunk]


def _look_at_views(model: InternVLModel, views: list[View]) -> Tensor:
    """What the lower layers make of tiles."""
    states = []
    for start in range(0, len(views), _CHUNK):
        part = [
            tile.pixels()[:, :: -1 if turn else 1] for tile, turn in views[start : start + _CHUNK]
        ]
        states.append(look_at(model, np.stack(part)))
    return torch.cat(states)


def _code_of(tile: PoolTile, turn: bool) -> Tensor:  # noqa: FBT001 - a view's second half
    kinds, count = kinds_of(tile) or ([0] * 9, 0)
    return s.tile_code(mirrored(kinds) if turn else kinds, count).to(torch.int8)


def _see_shard(model: InternVLModel, shard: Path, *, twice: bool, cut: bool) -> Seen:
    tiles = [t for t in pickle.loads(shard.read_bytes()) if (kinds_of(t) is None) == cut]
    views = _views(tiles, twice=twice)
    path = shard.parent.parent / "seen" / f"{shard.stem}{'-cut' if cut else ''}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_look_at_views(model, views), path)
        print(f"seen: {path.stem}", flush=True)
    codes = torch.stack([_code_of(*view) for view in views])
    whole = torch.tensor([tile.box == Box() for tile, _ in views])
    return Seen(torch.load(path, weights_only=True, mmap=True), codes, whole)


def see_all(model: InternVLModel, pool: Path, name: str, shards: int, *, cut: bool = False) -> Seen:
    """The tiles of a pool's first shards.

    Args:
        model: Whose lower layers look.
        pool: Folder of the drawn tiles; the states are kept beside it.
        name: Which tiles.
        shards: How many shards.
        cut: Just the tiles that cut items into parts, which have no code, or just the others.
    """
    paths = sorted(pool.glob(f"{name}-*.pkl"))[:shards]
    parts = [
        _see_shard(model, path, twice=index < _TWICE, cut=cut) for index, path in enumerate(paths)
    ]
    columns = zip(*((p.states, p.codes, p.whole) for p in parts), strict=True)
    return Seen(*(torch.cat(column) for column in columns))


@torch.no_grad()
def write_tokens(model: InternVLModel, states: Tensor) -> Tensor:
    """The visual tokens of kept states, (n, 64, width) in bfloat16."""
    tokens = []
    for part in states.split(_CHUNK):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens.append(tokens_of(model, upper_states(model, part)[-1]).to(torch.bfloat16))
    return torch.cat(tokens)


def _choice(logits: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of tokens' choice among some channels."""
    loss = F.cross_entropy(
        _SHARPNESS * logits.flatten(0, -2), truth.flatten(0, -2), reduction="none"
    )
    return loss.mean() if weight is None else (loss * weight.flatten()).sum() / weight.sum()


def code_losses(tokens: Tensor, code: Tensor, whole: Tensor) -> dict[str, Tensor]:
    """How far visual tokens are from their code.

    In a detail tile an item may lie between two places, so there its place counts for little.
    """
    tokens, code = tokens.float(), code.float()
    wanted = F.pad(s.LOUDNESS * code, (0, WIDTH - s.CODE_WIDTH))
    square = (tokens - wanted).square().sum(-1)
    places = list(s.PLACE_TOKENS)
    seen, truth = tokens[:, places], code[:, places]
    there = truth[..., s.ITEM] > 0
    state, at, count = [s.ITEM, s.EMPTY], slice(s.PLACE, s.RANK), slice(s.COUNT, s.ITEM)
    sure = (0.1 + 0.9 * whole[:, None].float()).expand(-1, len(places))
    parts = {
        "square": square.mean() + 2 * square[:, places].mean(),
        "state": 5 * _choice(seen[..., state], truth[..., state], sure),
        "place": 0.2 * _choice(seen[..., at], truth[..., at]),
        "count": _choice(tokens[..., count], code[..., count]),
    }
    for name, (first, width) in _GROUPS.items():
        group = slice(first, first + width)
        parts[name] = _choice(seen[there][:, group], truth[there][:, group])
    return parts


def _cells() -> Tensor:
    """The place that every patch of a tile belongs to, (256,)."""
    band = torch.arange(16) * 3 // 16
    return (3 * band[:, None] + band[None, :]).flatten()


def shuffled(hidden: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Tiles put together from the places of other tiles, and their code.

    There are few arrangements of items in the drawn tiles, and numbers are soon learnt by heart.

    Args:
        hidden: (n, 257, width) after the first upper layer, which has gathered what lies where.
        code: (n, 64, 33) of whole pictures.
    """
    count = len(hidden)
    source = torch.stack([torch.randperm(count) for _ in range(9)], dim=1)
    patches = torch.cat([torch.arange(count)[:, None], source[:, _cells()]], dim=1)
    mixed = hidden[patches, torch.arange(hidden.shape[1])]
    places = torch.tensor(s.PLACE_TOKENS)
    cells = code[source, places].float()
    item = cells[..., s.ITEM] > 0
    number, total = item.cumsum(1), item.sum(1)
    ranks = F.one_hot((number - 1).clamp(0, 3), 4) * item[..., None]
    cells[..., s.RANK : s.COUNT] = ranks.float()
    result = torch.zeros_like(code, dtype=torch.float)
    result[:, places] = cells
    result[..., s.COUNT : s.ITEM] = F.one_hot(total.clamp_max(4), 6)[:, None].float()
    fair = total <= 4
    return mixed[fair], result[fair]


def early_loss(early: nn.Linear, hidden: Tensor, code: Tensor) -> dict[str, Tensor]:
    """What lies at each place, read off its patches after the first upper layer.

    The second one can only count and number what the first one has gathered.
    """
    grid = hidden[:, 1:].unflatten(1, (8, 2, 8, 2)).float().mean((2, 4)).flatten(1, 2)
    places = list(s.PLACE_TOKENS)
    logits, truth = early(grid[:, places]).flatten(0, 1), code[:, places].float().flatten(0, 1)
    there = truth[:, s.ITEM] > 0
    state = F.binary_cross_entropy_with_logits(logits[:, -1], truth[:, s.ITEM])
    colour = F.cross_entropy(logits[there, :8], truth[there, s.COLOUR : s.COLOUR + 8])
    shape = F.cross_entropy(logits[there, 8:12], truth[there, s.SHAPE : s.SHAPE + 4])
    return {"early": state + 0.3 * (colour + shape)}


def right_tiles(tokens: Tensor, code: Tensor) -> dict[str, Tensor]:
    """Whether every fact of a tile can be read off its tokens, for each tile."""
    places = list(s.PLACE_TOKENS)
    tokens = tokens.float()
    seen, truth = tokens[:, places], code[:, places].float()
    there = truth[..., s.ITEM] > 0
    result = {"state": ((seen[..., s.ITEM] > seen[..., s.EMPTY]) == there).all(-1)}
    for name, (first, width) in _GROUPS.items():
        group = slice(first, first + width)
        same = seen[..., group].argmax(-1) == truth[..., group].argmax(-1)
        result[name] = (same | ~there).all(-1)
    count = slice(s.COUNT, s.COUNT + 6)
    same = tokens[..., count].argmax(-1) == code[..., count].float().argmax(-1)
    result["count"] = same[:, places].all(-1)
    result["all"] = torch.stack(list(result.values())).all(0)
    return result


@torch.no_grad()
def examine(model: InternVLModel, seen: Seen) -> str:
    """Right tiles by fact, and by number of items."""
    found: dict[str, list[Tensor]] = {}
    counts = seen.codes[:, 0, s.COUNT : s.COUNT + 6].argmax(-1)
    for start in range(0, len(seen.codes), _CHUNK):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = upper_states(model, seen.states[start : start + _CHUNK])
            tokens = tokens_of(model, states[-1])
        for name, ok in right_tiles(tokens, seen.codes[start : start + _CHUNK]).items():
            found.setdefault(name, []).append(ok)
    right = {name: torch.cat(parts).float() for name, parts in found.items()}
    shown = " ".join(f"{name} {ok.mean():.4f}" for name, ok in right.items())
    each = " ".join(f"{n}: {right['all'][counts == n].mean():.4f}" for n in range(6))
    return f"{shown} | {each}"


def upper_part(model: InternVLModel) -> nn.Module:
    """What is trained here: the upper layers and the projector."""
    return nn.ModuleList(
        [*model.vision_tower.encoder.layer[LOWER_LAYERS:], model.multi_modal_projector]
    )


@torch.no_grad()
def start_coding(model: InternVLModel) -> None:
    """Keep what the projector reads, and let it write nothing at first."""
    torch.manual_seed(0)
    nn.init.trunc_normal_(model.multi_modal_projector.linear_2.weight, std=0.001)
    nn.init.zeros_(model.multi_modal_projector.linear_2.bias)


def train_coding(
    model: InternVLModel,
    pool: Path,
    checkpoint: Path,
    *,
    shards: int,
    steps: int,
    rate: float = 3e-3,
) -> None:
    """Train the upper layers and the projector; go on from the checkpoint if there is one."""
    held_out = see_all(model, pool, "held-out", 2)
    seen = see_all(model, pool, "train", shards)
    states, codes, whole = seen.states, seen.codes, seen.whole
    trained, last_layer = upper_part(model), model.vision_tower.encoder.layer[-1]
    early = nn.Linear(WIDTH, _EARLY_WIDTH)
    modules = {"upper": trained, "early": early}
    groups = optimisers(trained, list(early.parameters()), matrix_lr=rate, other_lr=rate * 2 / 3)
    first = load_state(checkpoint, modules, groups)
    rng, began, mean = random.Random(f"coding-{first}"), time.time(), {}
    for step in range(first, steps):
        set_rate(groups, step, steps, 100)
        index = torch.tensor(rng.sample(range(len(codes)), BATCH))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inner = upper_states(model, states[index])
            tokens = tokens_of(model, inner[-1])
            usual = whole[index] & (codes[index][:, 0, s.COUNT + s.TINY_COUNT] == 0)
            mixed, code = shuffled(inner[0][usual], codes[index][usual])
            mixed_tokens = tokens_of(model, last_layer(mixed))
        parts = code_losses(tokens, codes[index], whole[index]) | early_loss(
            early, inner[0], codes[index]
        )
        mixed_parts = code_losses(mixed_tokens, code, torch.ones(len(code), dtype=torch.bool))
        parts |= {f"mixed {name}": part for name, part in mixed_parts.items()}
        sum(parts.values()).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimiser in groups:
            optimiser.step()
            optimiser.zero_grad()
        for key, value in parts.items():
            mean[key] = 0.98 * mean.get(key, value.item()) + 0.02 * value.item()
        if step % 50 == 49:
            pace = (time.time() - began) / (step + 1 - first)
            shown = " ".join(f"{k} {v:.3f}" for k, v in mean.items())
            print(f"coding {step + 1}/{steps} {shown} {pace:.2f} s", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            print(f"coding {step + 1}: {examine(model, held_out)}", flush=True)
            save_state(checkpoint, modules, groups, step + 1)
