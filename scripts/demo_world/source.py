"""Draws batches of conversations of all forms about pictures, invented or real."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Protocol

from tokenizers import Tokenizer

from . import conversations as c
from .batching import TextBatch, collate
from .conversations import Sequence, Writer
from .scenes import PLACES, Item
from .symbols import Picture


class Pictures(Protocol):
    """Where pictures come from."""

    def single(self) -> Picture:
        """A picture of one tile."""

    def several(self) -> Picture:
        """A picture of several tiles."""

    def tiny(self) -> Picture:
        """A large picture of one tiny item, with its detail tiles."""

    def single_of(self, item: Item) -> Picture:
        """A picture of one tile that shows just this item."""


@dataclass(frozen=True)
class Mixture:
    """How often each form of conversation is drawn."""

    single: float
    several: float
    last: float
    two: float
    text: float
    tiny: float
    video: float


EARLY = Mixture(single=0.64, several=0.12, last=0.03, two=0.16, text=0.02, tiny=0.0, video=0.03)
LATE = Mixture(single=0.35, several=0.22, last=0.04, two=0.26, text=0.02, tiny=0.06, video=0.05)


class Source:
    """Draws batches of conversations about pictures."""

    def __init__(self, pictures: Pictures, tokenizer: Tokenizer, seed: str) -> None:
        self._pictures, self._writer = pictures, Writer(tokenizer)
        self._rng = random.Random(seed)

    def batch(self, form: str) -> TextBatch:
        """A batch of one form, sized to cost about the same as any other."""
        return collate(getattr(self, f"_{form}")())

    def drawn(self, mixture: Mixture) -> TextBatch:
        """A batch of a form drawn from the mixture."""
        weights = vars(mixture)
        return self.batch(self._rng.choices(list(weights), list(weights.values()))[0])

    def _about(self, pictures: list[Picture], branches: int) -> list[Sequence]:
        return [c.one_picture(self._writer, self._rng, p, branches) for p in pictures]

    def _single(self) -> list[Sequence]:
        return self._about([self._pictures.single() for _ in range(14)], 4)

    def _several(self) -> list[Sequence]:
        first = self._pictures.several()
        more = [] if len(first.features) > 5 else [self._pictures.several() for _ in range(4)]
        return self._about([p for p in (first, *more) if p is first or len(p.features) <= 5], 6)

    def _any(self) -> Picture:
        if self._rng.random() < 0.65:
            return self._pictures.single()
        picture = self._pictures.several()
        return picture if len(picture.features) < 7 else self._any()

    def _last(self) -> list[Sequence]:
        return [c.picture_last(self._writer, self._rng, self._any()) for _ in range(6)]

    def _two(self) -> list[Sequence]:
        pairs = [(self._any(), self._any()) for _ in range(4)]
        return [c.two_pictures(self._writer, self._rng, pair, 6) for pair in pairs]

    def _text(self) -> list[Sequence]:
        return [c.no_picture(self._writer, self._rng, 8) for _ in range(4)]

    def _tiny(self) -> list[Sequence]:
        """One long sequence, and whole pictures that show too little."""
        near = self._pictures.tiny()
        blurred = [self._pictures.tiny().features[-1:] for _ in range(4)]
        pictures = [near, *(Picture(near.scene, features) for features in blurred)]
        if self._rng.random() < 0.4:
            pictures = pictures[1:]
        return self._about(pictures, 4)

    def _video(self) -> list[Sequence]:
        """The frames of one moving shape; between two places it may be seen at either."""
        rng = self._rng
        count, item = rng.randint(4, 8), self._pictures.single().scene.items[0]
        start, end = rng.sample(range(len(PLACES)), 2)
        frames = []
        for index in range(count):
            part = index / (count - 1)
            column = round((1 - part) * (start % 3) + part * (end % 3) + rng.uniform(-0.01, 0.01))
            row = round((1 - part) * (start // 3) + part * (end // 3) + rng.uniform(-0.01, 0.01))
            at = (start, end)[index > 0] if index in (0, count - 1) else column + 3 * row
            frames.append(self._pictures.single_of(replace(item, place=at)))
        return [c.video(self._writer, rng, frames, 4)]
