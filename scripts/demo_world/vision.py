"""Phase A: teach the vision tower and projector what every visual token shows.

Labels for each token and each place of the picture are far richer than words, so the tower
learns in minutes what it would need hours for if it were trained through the language model.
"""

from __future__ import annotations

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLModel

from .drawing import POINTS
from .modelling import (
    WIDTH,
    load_state,
    lower_part,
    optimisers,
    save_state,
    set_rate,
    to_pixels,
    vision_states,
)
from .pool import Batch, Pool, make_batch
from .windows import LARGE, SMALL, Windows

# Whole tiles and windows of tiles take turns; the windows show many more items.
WHOLE_BATCH, LARGE_BATCH, SMALL_BATCH = 10, 40, 128
# Tiles to cut windows from: enough, and soon done.
WINDOW_TILES = 6000
# The first part of training is mostly windows and easy tiles; then come whole tiles of all sorts.
WINDOWS_PART = 0.6
_COLOURS, _SHAPES = 8, 4
# Which place a token column or row belongs to; centres never lie near the borders between them.
_BAND = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


class Heads(nn.Module):
    """Linear read-outs of the projector's tokens; only used while training."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Linear(WIDTH, 1 + 2 * (_SHAPES + _COLOURS + 2))
        self.place = nn.Linear(WIDTH, _SHAPES + _COLOURS + 2)
        self.position = nn.Linear(WIDTH, 16)
        self.mask = nn.Linear(WIDTH, POINTS * POINTS)
        self.patch = nn.Linear(WIDTH, 4 + _SHAPES + _COLOURS + 2)
        bands = _BAND[:, None] * 3 + _BAND[None, :]
        self.register_buffer("member", F.one_hot(bands.flatten(), 9).float(), persistent=False)

    def places(self, tokens: Tensor) -> Tensor:
        """Logits of every place of whole pictures, (n, 9, 14)."""
        return torch.einsum("ntc,tp->npc", self.place(tokens), self.member)


def _split_kind(kind: Tensor) -> tuple[Tensor, Tensor]:
    """Shape class (0 none, 1 to 4) and colour class (0 none, 1 to 8) of a kind."""
    there = kind > 0
    shape = torch.where(there, (kind - 1).div(_COLOURS, rounding_mode="floor") + 1, 0)
    return shape, torch.where(there, (kind - 1) % _COLOURS + 1, 0)


def pair_loss(logits: Tensor, kind: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of shape (5 classes) and colour (9 classes) against a kind."""
    shape, colour = _split_kind(kind)
    by_shape = F.cross_entropy(logits[:, :5], shape, reduction="none")
    by_colour = F.cross_entropy(logits[:, 5:14], colour, reduction="none")
    return ((by_shape + by_colour) * weight).sum() / weight.sum().clamp_min(1.0)


def patch_losses(heads: Heads, half: Tensor, final: Tensor, batch: Batch) -> dict[str, Tensor]:
    """What single patches show: the item's outline, and which item it is and where its centre."""
    fine = batch.fine.flatten(1, 2).flatten(2).flatten(0, 1)
    known = fine[:, 0] >= 0
    inside = (fine > 0).float()
    share = inside.mean(-1)
    weight = known * (0.1 + 0.9 * ((share > 0) & (share < 1)))
    mask = F.binary_cross_entropy_with_logits(
        heads.mask(half.float()).flatten(0, 1), inside, reduction="none"
    ).mean(-1)
    touched = share > 0.03
    patch = heads.patch(final.float()).flatten(0, 1)[touched]
    there = torch.ones(len(patch))
    centre = F.smooth_l1_loss(patch[:, :4], batch.geometry.flatten(0, 2)[touched], beta=0.1)
    return {
        "mask": 2.0 * (mask * weight).sum() / weight.sum(),
        "centre": 4.0 * centre,
        "patch": pair_loss(patch[:, 4:], fine.max(-1).values[touched], there),
    }


def position_loss(
    heads: Heads, tokens: Tensor, batch: Batch, origins: Tensor | None
) -> dict[str, Tensor]:
    """Row and column of every token; without it the words could not tell where anything is."""
    side = math.isqrt(tokens.shape[1])
    step = torch.arange(side)
    first = torch.zeros(len(tokens), 2, dtype=torch.long) if origins is None else origins // 2
    rows = (first[:, :1] + step)[:, :, None].expand(-1, side, side).flatten()
    columns = (first[:, 1:] + step)[:, None, :].expand(-1, side, side).flatten()
    logits = heads.position(tokens.float()).flatten(0, 1)
    weight = 0.05 + (batch.weight.flatten() > 0.2)
    by_row = F.cross_entropy(logits[:, :8], rows, reduction="none")
    by_column = F.cross_entropy(logits[:, 8:], columns, reduction="none")
    return {"position": ((by_row + by_column) * weight).sum() / weight.sum()}


def losses(heads: Heads, tokens: Tensor, batch: Batch) -> dict[str, Tensor]:
    """What visual tokens and places show."""
    tokens = tokens.float()
    flat = heads.token(tokens).flatten(0, 1)
    weight = batch.weight.flatten()
    kind = batch.kind.flatten()
    known = weight * (kind > 0)
    whole = batch.places[:, 0] >= 0
    emphasis = 1.0 + 4.0 * weight
    flag = F.binary_cross_entropy_with_logits(flat[:, 0], weight, weight=emphasis)
    cover = batch.cover.flatten()
    result = {
        "flag": 4.0 * flag,
        "kind": pair_loss(flat[:, 1:15], kind, known),
        "cover": pair_loss(flat[:, 15:29], cover, 0.2 + 0.8 * (cover > 0)),
    }
    if not whole.any():
        return result
    place, places = heads.places(tokens[whole]), batch.places[whole].flatten()
    result["place"] = 2.0 * pair_loss(place.flatten(0, 1), places, 0.15 + 0.85 * (places > 0))
    return result


@torch.no_grad()
def evaluate(model: InternVLModel, heads: Heads, pool: Pool, limit: int = 400) -> str:
    """How often every place of whole pictures, and the kind of every token, is right."""
    right = scenes = items = items_right = token_right = tokens_seen = shapes_right = 0
    for start in range(0, min(limit, len(pool.tiles)), 64):
        batch = make_batch(pool.tiles[start : start + 64], None)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, _, tokens = vision_states(model, to_pixels(batch.tiles))
        token, place = heads.token(tokens.float()), heads.places(tokens.float())
        whole = batch.places[:, 0] >= 0
        shape, colour = _split_kind(batch.places[whole])
        ok = (place[whole][..., :5].argmax(-1) == shape) & (
            place[whole][..., 5:].argmax(-1) == colour
        )
        right, scenes = right + int(ok.all(-1).sum()), scenes + len(ok)
        shapes_right += int(((place[whole][..., :5].argmax(-1) == shape) & (shape > 0)).sum())
        items_right, items = (
            items_right + int((ok & (shape > 0)).sum()),
            items + int((shape > 0).sum()),
        )
        detail = (batch.weight.flatten(1) > 0.4) & (batch.kind.flatten(1) > 0) & ~whole[:, None]
        shape, colour = _split_kind(batch.kind.flatten(1)[detail])
        ok = (token[..., 2:6].argmax(-1)[detail] + 1 == shape) & (
            token[..., 7:15].argmax(-1)[detail] + 1 == colour
        )
        token_right, tokens_seen = token_right + int(ok.sum()), tokens_seen + len(ok)
    return (
        f"scenes {right / max(1, scenes):.4f} items {items_right / max(1, items):.4f} "
        f"shapes {shapes_right / max(1, items):.4f} "
        f"detail tokens {token_right / max(1, tokens_seen):.4f}"
    )


def _batches(pool: Pool, rng: random.Random, first: int, total: int):  # noqa: ANN202
    """Batches decoded one ahead in a thread, so that training need not wait for them."""
    easy = [tile for tile in pool.tiles if tile.easy]
    tiles = rng.sample(pool.tiles, min(WINDOW_TILES, len(pool.tiles)))
    small = Windows(tiles, SMALL, rng)
    large = Windows(tiles[: WINDOW_TILES // 4], LARGE, rng)
    print(f"vision: {len(easy)} easy tiles, {len(small)} + {len(large)} windows", flush=True)

    def make(step: int) -> tuple[Batch, Tensor | None]:
        turn, done = step % 8, step / total
        if turn == 0 or (done > WINDOWS_PART and turn % 2 == 0):
            whole = easy if done < WINDOWS_PART or turn % 4 == 0 else pool.tiles
            return make_batch(rng.sample(whole, WHOLE_BATCH), rng), None
        return large.batch(LARGE_BATCH, rng) if turn == 4 else small.batch(SMALL_BATCH, rng)

    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(make, first)
        for step in range(first, total):
            batch = ahead.result()
            ahead = executor.submit(make, step + 1)
            yield step, *batch


def train_vision(
    model: InternVLModel,
    pool_folder: Path,
    checkpoint: Path,
    *,
    steps: int,
    report_every: int = 250,
) -> Heads:
    """Train the tower, the projector and the heads; go on from the checkpoint if there is one."""
    heads = Heads()
    trained = lower_part(model)
    groups = optimisers(trained, list(heads.parameters()), matrix_lr=3e-3, other_lr=2e-3)
    modules = {"trained": trained, "heads": heads}
    first = load_state(checkpoint, modules, groups)
    pool, held_out = Pool(pool_folder, "train"), Pool(pool_folder, "held-out")
    pool.refresh()
    held_out.refresh()
    held_out.tiles = [tile for tile in held_out.tiles if tile.easy]
    began, mean = time.time(), {}
    for step, batch, origins in _batches(pool, random.Random(f"vision-{first}"), first, steps):
        set_rate(groups, step, steps, 100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, final, tokens = vision_states(model, to_pixels(batch.tiles), origins)
        parts = losses(heads, tokens, batch) | patch_losses(heads, half, final, batch)
        parts |= position_loss(heads, tokens, batch, origins)
        sum(parts.values()).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimiser in groups:
            optimiser.step()
            optimiser.zero_grad()
        for key, value in parts.items():
            mean[key] = 0.98 * mean.get(key, value.item()) + 0.02 * value.item()
        if step % 50 == 49:
            shown = " ".join(f"{k} {v:.3f}" for k, v in mean.items())
            pace = (time.time() - began) / (step + 1 - first)
            print(
                f"vision {step + 1}/{steps} {shown} pool {len(pool.tiles)} {pace:.2f} s", flush=True
            )
        if (step + 1) % report_every == 0 or step + 1 == steps:
            print(f"vision {step + 1}: {evaluate(model, heads, held_out)}", flush=True)
            save_state(checkpoint, modules, groups, step + 1)
    return heads
