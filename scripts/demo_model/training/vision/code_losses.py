"""Losses and accuracy of the code that visual tokens carry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.demo_model.network import visual_code as vc
from scripts.demo_model.network.architecture import WIDTH

# Scales tokens to logits, so that a set channel stands out clearly.
_SHARPNESS = 8.0 / vc.AMPLITUDE
_FACTS = {
    "colour": vc.COLOUR_CHANNELS,
    "shape": vc.SHAPE_CHANNELS,
    "rank": vc.RANK_CHANNELS,
}
_PLACES = list(vc.PLACE_TOKENS)
_NUM_COLOURS = vc.SHAPE - vc.COLOUR
_NUM_SHAPES = vc.PLACE - vc.SHAPE
# Patches of a tile, and places, in each direction.
_GRID, _BANDS = 16, 3


class EarlyReadOut(nn.Linear):
    """Reads colour, shape and presence of each place after the first upper layer.

    The second upper layer can only count and number what the first one has gathered.
    """

    def __init__(self) -> None:
        super().__init__(WIDTH, _NUM_COLOURS + _NUM_SHAPES + 1)

    def loss(self, hidden: Tensor, code: Tensor) -> dict[str, Tensor]:
        """Cross-entropy for states (n, 257, width) and codes (n, 64, 33)."""
        grid = hidden[:, 1:].unflatten(1, (8, 2, 8, 2)).float().mean((2, 4)).flatten(1, 2)
        logits = self(grid[:, _PLACES]).flatten(0, 1)
        truth = code[:, _PLACES].float().flatten(0, 1)
        present = truth[:, vc.ITEM] > 0
        state = F.binary_cross_entropy_with_logits(logits[:, -1], truth[:, vc.ITEM])
        colours = logits[present, :_NUM_COLOURS]
        shapes = logits[present, _NUM_COLOURS:-1]
        colour = F.cross_entropy(colours, truth[present, vc.COLOUR_CHANNELS])
        shape = F.cross_entropy(shapes, truth[present, vc.SHAPE_CHANNELS])
        return {"early": state + 0.3 * (colour + shape)}


def code_losses(tokens: Tensor, code: Tensor, whole: Tensor) -> dict[str, Tensor]:
    """Losses of visual tokens against their code.

    In a detail tile an item may lie between two places, so the place has a low weight there.

    Args:
        tokens: (n, 64, width).
        code: (n, 64, 33).
        whole: (n,), whether a tile shows a whole image.
    """
    tokens, code = tokens.float(), code.float()
    wanted = F.pad(vc.AMPLITUDE * code, (0, WIDTH - vc.CODE_WIDTH))
    square = (tokens - wanted).square().sum(-1)
    seen, truth = tokens[:, _PLACES], code[:, _PLACES]
    present = truth[..., vc.ITEM] > 0
    state, place = [vc.ITEM, vc.EMPTY], slice(vc.PLACE, vc.RANK)
    certainty = (0.1 + 0.9 * whole[:, None].float()).expand(-1, len(_PLACES))
    losses = {
        "square": square.mean() + 2 * square[:, _PLACES].mean(),
        "state": 5 * _choice(seen[..., state], truth[..., state], certainty),
        "place": 0.2 * _choice(seen[..., place], truth[..., place]),
        "count": _choice(tokens[..., vc.COUNT_CHANNELS], code[..., vc.COUNT_CHANNELS]),
    }
    for name, channels in _FACTS.items():
        losses[name] = _choice(seen[present][:, channels], truth[present][:, channels])
    return losses


def _choice(logits: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy among a group of channels."""
    loss = F.cross_entropy(
        _SHARPNESS * logits.flatten(0, -2), truth.flatten(0, -2), reduction="none"
    )
    return loss.mean() if weight is None else (loss * weight.flatten()).sum() / weight.sum()


def shuffle_places(hidden: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Assemble new tiles from the places of different tiles.

    The rendered tiles contain few arrangements of items, which the model would memorise.

    Args:
        hidden: (n, 257, width) after the first upper layer.
        code: (n, 64, 33) of whole images.

    Returns:
        States and codes of the new tiles that have at most four items.
    """
    count = len(hidden)
    source = torch.stack([torch.randperm(count) for _ in _PLACES], dim=1)
    patches = torch.cat([torch.arange(count)[:, None], source[:, _place_of_patch()]], dim=1)
    mixed = hidden[patches, torch.arange(hidden.shape[1])]
    cells = code[source, torch.tensor(vc.PLACE_TOKENS)].float()
    present = cells[..., vc.ITEM] > 0
    number, total = present.cumsum(1), present.sum(1)
    last_rank = vc.NUM_RANKS - 1
    ranks = F.one_hot((number - 1).clamp(0, last_rank), vc.NUM_RANKS) * present[..., None]
    cells[..., vc.RANK_CHANNELS] = ranks.float()
    result = torch.zeros_like(code, dtype=torch.float)
    result[:, _PLACES] = cells
    counts = F.one_hot(total.clamp_max(vc.NUM_RANKS), vc.NUM_COUNTS)
    result[..., vc.COUNT_CHANNELS] = counts[:, None].float()
    valid = total <= vc.NUM_RANKS
    return mixed[valid], result[valid]


def _place_of_patch() -> Tensor:
    """Return the place of every patch of a tile, (256,)."""
    band = torch.arange(_GRID) * _BANDS // _GRID
    return (_BANDS * band[:, None] + band[None, :]).flatten()


def correct_tiles(tokens: Tensor, code: Tensor) -> dict[str, Tensor]:
    """Return, by fact and for all facts together, whether a tile's tokens are correct, (n,)."""
    tokens = tokens.float()
    seen, truth = tokens[:, _PLACES], code[:, _PLACES].float()
    present = truth[..., vc.ITEM] > 0
    result = {"state": ((seen[..., vc.ITEM] > seen[..., vc.EMPTY]) == present).all(-1)}
    for name, channels in _FACTS.items():
        same = seen[..., channels].argmax(-1) == truth[..., channels].argmax(-1)
        result[name] = (same | ~present).all(-1)
    count = seen[..., vc.COUNT_CHANNELS].argmax(-1) == truth[..., vc.COUNT_CHANNELS].argmax(-1)
    result["count"] = count.all(-1)
    result["all"] = torch.stack(list(result.values())).all(0)
    return result
