"""Where the language model should look while it reads and writes; only used while training.

A small transformer needs very many answers to find out by itself that "red circle" in a text
means looking at the red circle's visual token. Telling two of its heads so is far quicker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from . import wordings as w
from .modelling import TOKENS_PER_TILE
from .scenes import COLOURS, SHAPES, Item, Scene
from .symbols import LOOK_HEADS, PLACE_TOKENS, READ_LAYER, WRITE_LAYER

if TYPE_CHECKING:
    from .batching import TextBatch

_NAME = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b", re.IGNORECASE)
_PLACES = {
    phrase.replace("centre", spelling): place
    for place, phrases in enumerate(w.AT)
    for phrase in phrases
    for spelling in ("centre", "center")
}
_PLACE = re.compile("|".join(sorted(map(re.escape, _PLACES), key=len, reverse=True)), re.IGNORECASE)
_JSON = re.compile(r'\{"colour": "\w+", "shape": "\w+", "place": "[a-z ]+"')
_DELIMITER = re.compile(r":|,| and ")


@dataclass(frozen=True)
class Look:
    """One token that should look at an item.

    Attributes:
        layer: In which layer.
        start: First character of the text the look counts for.
        end: End of that text.
        picture: Which picture of the sequence; -1 for none, then the image's end is looked at.
        place: The place of its picture that is looked at.
    """

    layer: int
    start: int
    end: int
    picture: int
    place: int


def _find(scenes: list[Scene], name: str) -> list[tuple[int, Item]]:
    return [(n, i) for n, scene in enumerate(scenes) for i in scene.items if i.name == name]


def question_looks(text: str, scenes: list[Scene]) -> list[Look]:
    """At the end of a name or place in a question: the item meant, or the image's end."""
    looks = []
    for match in _NAME.finditer(text):
        found = _find(scenes, match.group(0).lower())
        if len(found) == 1:
            looks.append(
                Look(READ_LAYER, match.end() - 1, match.end(), found[0][0], found[0][1].place)
            )
        elif not found:
            looks.append(Look(READ_LAYER, match.end() - 1, match.end(), -1, 0))
    match = _PLACE.search(text) if len(scenes) == 1 else None
    if match:
        place = _PLACES[match.group(0).lower()]
        looks.append(Look(READ_LAYER, match.end() - 1, match.end(), 0, place))
    return looks


def _listed_looks(text: str, scenes: list[Scene]) -> list[Look]:
    """In a description: every item from the sign before it to its place."""
    looks, begin = [], text.index(":")
    for match in _NAME.finditer(text):
        found = _find(scenes, match.group(0))
        following = _DELIMITER.search(text, match.end())
        end = following.start() if following else len(text)
        if len(found) == 1:
            looks.append(Look(WRITE_LAYER, begin, end, found[0][0], found[0][1].place))
        begin = end
    return looks


def _json_looks(text: str, scenes: list[Scene]) -> list[Look]:
    """In JSON: every item from its brace to its place."""
    return [
        Look(WRITE_LAYER, match.start(), match.end(), 0, item.place)
        for match, item in zip(_JSON.finditer(text), scenes[0].items, strict=True)
    ]


def answer_looks(text: str, scenes: list[Scene]) -> list[Look]:
    """While an answer is written: the item that its words are about."""
    if text.startswith("{"):
        return _json_looks(text, scenes)
    if ":" in text:
        return _listed_looks(text, scenes)
    match = _NAME.search(text)
    found = _find(scenes, match.group(0)) if match else []
    if len(found) == 1 and match:
        first = 0 if text.startswith("Image-") else match.end() - 1
        return [Look(WRITE_LAYER, first, len(text), found[0][0], found[0][1].place)]
    match = _PLACE.search(text) if len(scenes) == 1 else None
    item = scenes[0].at(_PLACES[match.group(0)]) if match else None
    if match and item:
        return [Look(WRITE_LAYER, match.end() - 1, len(text), 0, item.place)]
    return []


def token_looks(looks: list[Look], offsets: list[tuple[int, int]]) -> list[tuple[int, Look]]:
    """The tokens of a text that each look counts for."""
    return [
        (index, look)
        for look in looks
        for index, (start, end) in enumerate(offsets)
        if start < look.end and end > look.start
    ]


def look_targets(batch: TextBatch) -> Tensor:
    """Layer, row, token and the token to look at of every look of a batch, (n, 4)."""
    rows = []
    for row, sequence in enumerate(batch.sequences):
        ends = sequence.image_ends
        for token, look in sequence.looks:
            target = ends[-1]
            if look.picture >= 0:
                target = ends[look.picture] - TOKENS_PER_TILE + PLACE_TOKENS[look.place]
            rows.append((look.layer, row, token, target))
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 4)


def _rotated(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = vectors.shape[-1] // 2
    turned = torch.cat([-vectors[..., half:], vectors[..., :half]], dim=-1)
    return vectors * cos + turned * sin


def look_loss(
    model: InternVLForConditionalGeneration,
    hidden: tuple[Tensor, ...],
    mask: Tensor,
    position: Tensor,
    targets: Tensor,
) -> Tensor:
    """Cross-entropy of the chosen heads' attention against where they should look.

    Args:
        model: The model.
        hidden: The hidden states that enter every layer.
        mask: The batch's attention mask.
        position: Positions of all tokens.
        targets: (n, 4), layer, row, token and the token to look at.
    """
    total = hidden[0].sum() * 0.0
    decoder = model.model.language_model
    for layer in (READ_LAYER, WRITE_LAYER):
        mine = targets[targets[:, 0] == layer]
        if not len(mine):
            continue
        block: nn.Module = decoder.layers[layer]
        states = block.input_layernorm(hidden[layer])
        cos, sin = decoder.rotary_emb(states, position)
        width, rows = block.self_attn.head_dim, mine[:, 1]
        group = block.self_attn.num_key_value_groups
        queries = block.self_attn.q_proj(states[rows, mine[:, 2]]).unflatten(-1, (-1, width))
        keys = block.self_attn.k_proj(states).unflatten(-1, (-1, width))
        for head in LOOK_HEADS[layer]:
            query = _rotated(queries[:, head], cos[rows, mine[:, 2]], sin[rows, mine[:, 2]])
            key = _rotated(keys[:, :, head // group], cos, sin)
            scores = torch.einsum("nc,nlc->nl", query.float(), key.float()[rows]) * width**-0.5
            scores = scores + mask[rows, 0, mine[:, 2]]
            total = total + F.cross_entropy(scores, mine[:, 3]) / len(LOOK_HEADS[layer])
    return total
