"""Linear read-outs of the lower layers; only training uses them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.demo_model.network.architecture import WIDTH
from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.labels import POINTS
from scripts.demo_model.world.scene import SHAPES

# Classes of a kind's shape and colour; class 0 is none.
SHAPE_CLASSES, COLOUR_CLASSES = 1 + len(SHAPES), 1 + len(COLOURS)
KIND_CLASSES = SHAPE_CLASSES + COLOUR_CLASSES
# The place that each token column or row belongs to; no item's centre lies near a border.
_BAND = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


class ReadOuts(nn.Module):
    """Linear layers from states and tokens to logits of the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Linear(WIDTH, 1 + 2 * KIND_CLASSES)
        self.place = nn.Linear(WIDTH, KIND_CLASSES)
        self.position = nn.Linear(WIDTH, 16)
        self.mask = nn.Linear(WIDTH, POINTS * POINTS)
        self.patch = nn.Linear(WIDTH, 4 + KIND_CLASSES)
        bands = _BAND[:, None] * 3 + _BAND[None, :]
        self.register_buffer("member", F.one_hot(bands.flatten(), 9).float(), persistent=False)

    def places(self, tokens: Tensor) -> Tensor:
        """Return the kind logits of every place of whole images, (n, 9, 14)."""
        return torch.einsum("ntc,tp->npc", self.place(tokens), self.member)


def split_kind(kind: Tensor) -> tuple[Tensor, Tensor]:
    """Split kinds into shape class (0 none, 1 to 4) and colour class (0 none, 1 to 8)."""
    present = kind > 0
    shape = torch.where(present, (kind - 1).div(len(COLOURS), rounding_mode="floor") + 1, 0)
    return shape, torch.where(present, (kind - 1) % len(COLOURS) + 1, 0)


def kind_loss(logits: Tensor, kind: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy of shape and colour.

    Args:
        logits: (n, 14), 5 shape classes and 9 colour classes.
        kind: (n,).
        weight: (n,).
    """
    shape, colour = split_kind(kind)
    by_shape = F.cross_entropy(logits[:, :SHAPE_CLASSES], shape, reduction="none")
    by_colour = F.cross_entropy(logits[:, SHAPE_CLASSES:], colour, reduction="none")
    return ((by_shape + by_colour) * weight).sum() / weight.sum().clamp_min(1.0)
