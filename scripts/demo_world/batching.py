"""Sequences to padded tensors, and the mask that keeps their branches apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .conversations import IGNORE, Sequence


@dataclass(frozen=True)
class TextBatch:
    """Sequences padded to one length.

    Attributes:
        ids: (n, length) token ids.
        mask: (n, 1, length, length), 0 where a token may look and a large negative number elsewhere.
        position: (n, length).
        labels: (n, length) the token that has to follow, or ``IGNORE``.
        answer: (n, length) number of the answer the following token belongs to, or -1.
        features: (image tokens, width) the visual tokens of all pictures in order.
        ends: (pictures, 2) row and index of every ``</img>``.
        sequences: What the batch was made of.
    """

    ids: Tensor
    mask: Tensor
    position: Tensor
    labels: Tensor
    answer: Tensor
    features: Tensor
    ends: Tensor
    sequences: list[Sequence]


def _padded(rows: list[list[int]], fill: int) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


def _shifted(labels: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """What follows every token; answers are written without gaps, so a plain shift is right."""

    def shift(values: Tensor, fill: int) -> Tensor:
        return torch.cat([values[:, 1:], torch.full_like(values[:, :1], fill)], dim=1)

    return shift(labels, IGNORE), shift(answer, -1)


def collate(sequences: list[Sequence]) -> TextBatch:
    """Pad sequences and work out who may look at whom."""
    ids = _padded([s.ids for s in sequences], 0)
    branch = _padded([s.branch for s in sequences], -1)
    order = torch.arange(ids.shape[1])
    mine = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    allowed = mine & (order[None, None, :] <= order[None, :, None])
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, -1e9)[:, None]
    labels, answer = _shifted(
        _padded([s.labels for s in sequences], IGNORE), _padded([s.answer for s in sequences], -1)
    )
    features = [p.features.flatten(0, 1) for s in sequences for p in s.pictures]
    ends = [(row, end) for row, s in enumerate(sequences) for end in s.image_ends]
    return TextBatch(
        ids=ids,
        mask=mask,
        position=_padded([s.position for s in sequences], 0),
        labels=labels,
        answer=answer,
        features=torch.cat(features) if features else torch.zeros(0, 1),
        ends=torch.tensor(ends).reshape(-1, 2),
        sequences=sequences,
    )
