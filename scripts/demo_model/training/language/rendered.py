"""Images assembled from rendered tiles, with their real visual tokens."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.internvl.modeling_internvl import InternVLModel

from scripts.demo_model.network.visual_code import COUNT_CHANNELS, TINY_COUNT, decode_items
from scripts.demo_model.training.language.images import (
    EncodedImage,
    SyntheticImages,
    draw_detail_count,
    draw_tiny_detail_count,
)
from scripts.demo_model.training.vision.lower_states import load_states, visual_tokens
from scripts.demo_model.world.scene import Item, symbolic_item, symbolic_scene

# This many shards contain enough tiles that cut items.
_CUT_SHARDS = 12


class RenderedImages:
    """Thumbnails of rendered images, with tiles of other images before them as their details."""

    def __init__(self, model: InternVLModel, pool: Path, name: str, shards: int) -> None:
        data = load_states(model, pool, name, shards)
        cut = load_states(model, pool, name, min(shards, _CUT_SHARDS), cut=True)
        self._rng = random.Random(f"drawn-{name}")
        self._synthetic = SyntheticImages(f"drawn-{name}")
        self._tokens, self._codes = visual_tokens(model, data.states), data.codes
        self._cut = visual_tokens(model, cut.states)
        counts = self._codes[:, 0, COUNT_CHANNELS].argmax(-1)
        self._thumbnails = _indices(data.whole & (counts > 0) & (counts < TINY_COUNT))
        self._tiny = _indices(counts == TINY_COUNT)
        self._blank = _indices(counts == 0)
        self._details = _indices(~data.whole & (counts == 1))
        self._by_item = self._group_by_item(_indices(data.whole & (counts == 1)))

    def single(self) -> EncodedImage:
        """Return an image of one tile."""
        return self._image(self._rng.choice(self._thumbnails), [])

    def several(self) -> EncodedImage:
        """Return an image of several tiles, of which only the thumbnail can be trusted."""
        details = [self._ordinary_detail() for _ in range(draw_detail_count(self._rng))]
        return self._image(self._rng.choice(self._thumbnails), details)

    def tiny(self) -> EncodedImage:
        """Return a large image of one tiny item, which one of the detail tiles shows."""
        rng = self._rng
        count = draw_tiny_detail_count(rng)
        details = [self._tokens[rng.choice(self._blank)] for _ in range(count)]
        shown = rng.choice(self._details)
        details[rng.randrange(count)] = self._tokens[shown]
        return self._image(rng.choice(self._tiny), details, tiny=self._items(shown))

    def single_of(self, item: Item) -> EncodedImage:
        """Return an image of one tile that shows only this item; synthetic if none was drawn."""
        fitting = self._by_item.get((item.name, item.place))
        if not fitting:
            return self._synthetic.single_of(item)
        return self._image(self._rng.choice(fitting), [])

    def _items(self, index: int) -> tuple[Item, ...]:
        return tuple(symbolic_item(*item) for item in decode_items(self._codes[index]))

    def _group_by_item(self, indices: list[int]) -> dict[tuple[str, int], list[int]]:
        groups = defaultdict(list)
        for index in indices:
            [item] = self._items(index)
            groups[item.name, item.place].append(index)
        return groups

    def _image(
        self, index: int, details: list[Tensor], *, tiny: tuple[Item, ...] = ()
    ) -> EncodedImage:
        scene = symbolic_scene(tiny or self._items(index), tiny=bool(tiny))
        return EncodedImage(scene, torch.stack([*details, self._tokens[index]]))

    def _ordinary_detail(self) -> Tensor:
        """Return a part of an ordinary image, sometimes one with whole items or none."""
        draw = self._rng.random()
        if draw < 0.7:
            return self._cut[self._rng.randrange(len(self._cut))]
        return self._tokens[self._rng.choice(self._blank if draw < 0.85 else self._thumbnails)]


def _indices(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()
