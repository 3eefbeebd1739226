"""Pictures for the language phase put together from drawn tiles, with their real visual tokens."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.internvl.modeling_internvl import InternVLModel

from . import symbols as s
from .coding import see_all, write_tokens
from .scenes import COLOURS, PLACES, SHAPES, Item, Scene
from .symbols import Picture

# So few shards hold enough tiles of which nobody asks anything.
_CUT_SHARDS = 12


def items_of(code: Tensor) -> tuple[Item, ...]:
    """The items of a tile's code, as much of them as questions need."""
    items = []
    for place in range(len(PLACES)):
        token = code[s.PLACE_TOKENS[place]]
        if token[s.ITEM]:
            colour = COLOURS[int(token[s.COLOUR : s.COLOUR + 8].argmax())]
            shape = SHAPES[int(token[s.SHAPE : s.SHAPE + 4].argmax())]
            items.append(Item(shape, colour, (0, 0, 0), 0, 0, 0, 0, place))
    return tuple(items)


class DrawnPictures:
    """Whole pictures, and tiles of other pictures in front of them as their details."""

    def __init__(self, model: InternVLModel, pool: Path, name: str, shards: int) -> None:
        seen = see_all(model, pool, name, shards)
        cut = see_all(model, pool, name, min(shards, _CUT_SHARDS), cut=True)
        self._rng = random.Random(f"drawn-{name}")
        self._invented = s.InventedPictures(f"drawn-{name}")
        self._tokens, self._codes = write_tokens(model, seen.states), seen.codes
        self._cut = write_tokens(model, cut.states)
        counts = self._codes[:, 0, s.COUNT : s.COUNT + 6].argmax(-1)

        def where(wanted: Tensor) -> list[int]:
            return wanted.nonzero().flatten().tolist()

        self._whole = where(seen.whole & (counts > 0) & (counts < s.TINY_COUNT))
        self._tiny = where(counts == s.TINY_COUNT)
        self._blank = where(counts == 0)
        self._detail = where(~seen.whole & (counts == 1))
        self._alone = self._by_item(where(seen.whole & (counts == 1)))

    def _by_item(self, singles: list[int]) -> dict[tuple[str, int], list[int]]:
        found = defaultdict(list)
        for index in singles:
            [item] = items_of(self._codes[index])
            found[item.name, item.place].append(index)
        return found

    def _picture(self, index: int, details: list[Tensor], *, tiny: Item | None = None) -> Picture:
        items = (tiny,) if tiny else items_of(self._codes[index])
        scene = Scene(0, 0, (0, 0, 0), items, tiny=tiny is not None)
        return Picture(scene, torch.stack([*details, self._tokens[index]]))

    def single(self) -> Picture:
        """A picture of one tile."""
        return self._picture(self._rng.choice(self._whole), [])

    def _some(self, count: int, draw: Callable[[], Tensor]) -> list[Tensor]:
        return [draw() for _ in range(count)]

    def _ordinary_detail(self) -> Tensor:
        """A part of an ordinary picture, now and then one with whole items or none."""
        draw = self._rng.random()
        if draw < 0.7:
            return self._cut[self._rng.randrange(len(self._cut))]
        return self._tokens[self._rng.choice(self._blank if draw < 0.85 else self._whole)]

    def several(self) -> Picture:
        """A picture of several tiles, only the last of which can be trusted."""
        count = self._rng.choice((2, 2, 2, 3, 4, 4, 4, self._rng.randint(5, 12)))
        details = self._some(count, self._ordinary_detail)
        return self._picture(self._rng.choice(self._whole), details)

    def tiny(self) -> Picture:
        """A large picture of one tiny item, which one of the detail tiles shows."""
        rng = self._rng
        count = rng.choice((4, 8, 9, 9, 12, 12))
        details = self._some(count, lambda: self._tokens[rng.choice(self._blank)])
        shown = rng.choice(self._detail)
        details[rng.randrange(count)] = self._tokens[shown]
        [item] = items_of(self._codes[shown])
        return self._picture(rng.choice(self._tiny), details, tiny=item)

    def single_of(self, item: Item) -> Picture:
        """A picture of one tile that shows just this item; invented if none was drawn."""
        fitting = self._alone.get((item.name, item.place))
        if not fitting:
            return self._invented.single_of(item)
        return self._picture(self._rng.choice(fitting), [])


class MixedPictures:
    """Every picture from one of two sources."""

    def __init__(self, one: object, other: object, part: float, seed: str) -> None:
        self._sources, self._part = (one, other), part
        self._rng = random.Random(seed)

    def __getattr__(self, name: str) -> Callable[..., Picture]:
        return getattr(self._sources[self._rng.random() >= self._part], name)
