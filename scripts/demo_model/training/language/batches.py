"""Batches of sequences: padded tensors, and the mask that separates the branches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.demo_model.network.architecture import TOKENS_PER_TILE
from scripts.demo_model.network.visual_code import PLACE_TOKENS
from scripts.demo_model.training.language.sequences import IGNORE, NO_ANSWER, Sequence

_MASKED = -1e9


@dataclass(frozen=True)
class TextBatch:
    """Sequences padded to one length.

    Attributes:
        ids: (n, length) token ids.
        mask: (n, 1, length, length), 0 where attention is allowed, a large negative number
            elsewhere.
        position: (n, length).
        labels: (n, length) the next token, or ``IGNORE``.
        answer: (n, length) number of the answer that the next token belongs to, or ``NO_ANSWER``.
        features: (image tokens, width) the visual tokens of all images in order.
        ends: (images, 2) row and index of every ``</img>``.
        targets: (m, 4) layer, row, token, and the index of the token it should attend to.
        sequences: The sequences themselves.
    """

    ids: Tensor
    mask: Tensor
    position: Tensor
    labels: Tensor
    answer: Tensor
    features: Tensor
    ends: Tensor
    targets: Tensor
    sequences: list[Sequence]


def collate(sequences: list[Sequence]) -> TextBatch:
    """Combine sequences into a batch."""
    features = [image.features.flatten(0, 1) for s in sequences for image in s.images]
    ends = [(row, end) for row, s in enumerate(sequences) for end in s.image_ends]
    return TextBatch(
        ids=_padded([s.ids for s in sequences], 0),
        mask=_mask(_padded([s.branch for s in sequences], -1)),
        position=_padded([s.position for s in sequences], 0),
        labels=_shifted(_padded([s.labels for s in sequences], IGNORE), IGNORE),
        answer=_shifted(_padded([s.answer for s in sequences], NO_ANSWER), NO_ANSWER),
        features=torch.cat(features) if features else torch.zeros(0, 1),
        ends=torch.tensor(ends).reshape(-1, 2),
        targets=_targets(sequences),
        sequences=sequences,
    )


def _padded(rows: list[list[int]], fill: int) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


def _mask(branch: Tensor) -> Tensor:
    """Allow attention to earlier tokens of the own branch and of the prefix."""
    order = torch.arange(branch.shape[1])
    own = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    allowed = own & (order[None, None, :] <= order[None, :, None])
    return torch.zeros(allowed.shape).masked_fill(~allowed, _MASKED)[:, None]


def _shifted(values: Tensor, fill: int) -> Tensor:
    """Shift by one token; this is correct across branches because answers have no gaps."""
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], fill)], dim=1)


def _targets(sequences: list[Sequence]) -> Tensor:
    rows = []
    for row, sequence in enumerate(sequences):
        ends = sequence.image_ends
        for token, target in sequence.targets:
            index = ends[-1]
            if target.token is not None:
                first = ends[target.token.image] - TOKENS_PER_TILE
                index = first + PLACE_TOKENS[target.token.place]
            rows.append((target.layer, row, token, index))
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 4)
