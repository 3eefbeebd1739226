"""Losses of the vision phase: what patches, tokens and places show."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.demo_model.training.tiles.batches import TileBatch
from scripts.demo_model.training.vision.read_outs import KIND_CLASSES, ReadOuts, kind_loss

# A patch is touched by an item that covers at least this share of it.
_TOUCHED = 0.03


def patch_losses(
    read_outs: ReadOuts, half: Tensor, final: Tensor, batch: TileBatch
) -> dict[str, Tensor]:
    """Losses of single patches: the item's outline, its kind and its centre.

    Args:
        read_outs: The read-outs.
        half: States after the second lower layer, (n, patches, width).
        final: States after the last lower layer, (n, patches, width).
        batch: The labels.
    """
    fine = batch.fine.flatten(1, 2).flatten(2).flatten(0, 1)
    known = fine[:, 0] >= 0
    inside = (fine > 0).float()
    share = inside.mean(-1)
    on_edge = (share > 0) & (share < 1)
    weight = known * (0.1 + 0.9 * on_edge)
    mask = F.binary_cross_entropy_with_logits(
        read_outs.mask(half.float()).flatten(0, 1), inside, reduction="none"
    ).mean(-1)
    touched = share > _TOUCHED
    patch = read_outs.patch(final.float()).flatten(0, 1)[touched]
    centre = F.smooth_l1_loss(patch[:, :4], batch.geometry.flatten(0, 2)[touched], beta=0.1)
    kind = kind_loss(patch[:, 4:], fine.max(-1).values[touched], torch.ones(len(patch)))
    return {
        "mask": 2.0 * (mask * weight).sum() / weight.sum(),
        "centre": 4.0 * centre,
        "patch": kind,
    }


def token_losses(read_outs: ReadOuts, tokens: Tensor, batch: TileBatch) -> dict[str, Tensor]:
    """Losses of visual tokens (n, tokens, width) and, for whole images, of places."""
    tokens = tokens.float()
    flat = read_outs.token(tokens).flatten(0, 1)
    weight, kind, cover = batch.weight.flatten(), batch.kind.flatten(), batch.cover.flatten()
    flag = F.binary_cross_entropy_with_logits(flat[:, 0], weight, weight=1.0 + 4.0 * weight)
    kind_logits, cover_logits = flat[:, 1:].split(KIND_CLASSES, dim=1)
    result = {
        "flag": 4.0 * flag,
        "kind": kind_loss(kind_logits, kind, weight * (kind > 0)),
        "cover": kind_loss(cover_logits, cover, 0.2 + 0.8 * (cover > 0)),
    }
    whole = batch.places[:, 0] >= 0
    if whole.any():
        logits, places = read_outs.places(tokens[whole]), batch.places[whole].flatten()
        emphasis = 0.15 + 0.85 * (places > 0)
        result["place"] = 2.0 * kind_loss(logits.flatten(0, 1), places, emphasis)
    return result


def position_loss(
    read_outs: ReadOuts, tokens: Tensor, batch: TileBatch, origins: Tensor | None
) -> dict[str, Tensor]:
    """Loss of every token's row and column, so that tokens keep their position.

    Args:
        read_outs: The read-outs.
        tokens: (n, tokens, width).
        batch: The labels.
        origins: The first patch of each window, see ``patch_states``; None for whole tiles.
    """
    side = math.isqrt(tokens.shape[1])
    step = torch.arange(side)
    first = torch.zeros(len(tokens), 2, dtype=torch.long) if origins is None else origins // 2
    rows = (first[:, :1] + step)[:, :, None].expand(-1, side, side).flatten()
    columns = (first[:, 1:] + step)[:, None, :].expand(-1, side, side).flatten()
    logits = read_outs.position(tokens.float()).flatten(0, 1)
    weight = 0.05 + (batch.weight.flatten() > 0.2)
    by_row = F.cross_entropy(logits[:, :8], rows, reduction="none")
    by_column = F.cross_entropy(logits[:, 8:], columns, reduction="none")
    return {"position": ((by_row + by_column) * weight).sum() / weight.sum()}
