"""Draws batches of conversations of all forms about the pictures of a library."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from . import conversations as c
from .batching import TextBatch, collate
from .conversations import Sequence, Writer
from .features import Library, Picture


@dataclass(frozen=True)
class Mixture:
    """How often each form of conversation is drawn."""

    single: float
    multi: float
    last: float
    two: float
    text: float
    tiny: float


EARLY = Mixture(single=0.70, multi=0.12, last=0.04, two=0.12, text=0.02, tiny=0.0)
LATE = Mixture(single=0.45, multi=0.25, last=0.06, two=0.16, text=0.03, tiny=0.05)


class Source:
    """Draws batches of conversations about the library's pictures."""

    def __init__(self, library: Library, tokenizer: Tokenizer, seed: str) -> None:
        self._library, self._writer = library, Writer(tokenizer)
        self._rng = random.Random(seed)

    def batch(self, form: str) -> TextBatch:
        """A batch of one form, sized to cost about the same as any other."""
        return collate(getattr(self, f"_{form}")())

    def drawn(self, mixture: Mixture) -> TextBatch:
        """A batch of a form drawn from the mixture."""
        weights = vars(mixture)
        return self.batch(self._rng.choices(list(weights), list(weights.values()))[0])

    def _single(self) -> list[Sequence]:
        pictures = self._rng.sample(self._library.single, 7)
        return [c.one_picture(self._writer, self._rng, p, 8) for p in pictures]

    def _any(self) -> Picture:
        library = self._library.multi if self._rng.random() < 0.35 else self._library.single
        picture = self._rng.choice(library)
        return picture if len(picture.features) < 7 else self._any()

    def _mixed_details(self, picture: Picture) -> Picture:
        """A whole picture behind another one's detail tiles: only the last tile may be trusted."""
        if picture.resolved or self._rng.random() < 0.5:
            return picture
        other = self._rng.choice(self._library.multi).features[:-1]
        return Picture(picture.scene, torch.cat([other, picture.features]))

    def _multi(self) -> list[Sequence]:
        rng = self._rng
        if rng.random() < 0.5:
            pictures = rng.sample(self._library.multi, 3)
        else:
            pictures = [self._mixed_details(p) for p in rng.sample(self._library.single, 4)]
        return [c.one_picture(self._writer, rng, p, 9) for p in pictures]

    def _last(self) -> list[Sequence]:
        return [c.picture_last(self._writer, self._rng, self._any()) for _ in range(5)]

    def _two(self) -> list[Sequence]:
        pairs = [(self._any(), self._related()) for _ in range(3)]
        return [c.two_pictures(self._writer, self._rng, pair, 9) for pair in pairs]

    def _related(self) -> Picture:
        return self._any()

    def _text(self) -> list[Sequence]:
        return [c.no_picture(self._writer, self._rng, 8) for _ in range(4)]

    def _tiny(self) -> list[Sequence]:
        """Few sequences, for they are long, and some of whole pictures that show too little."""
        rng = self._rng
        pictures = rng.sample(self._library.tiny, 2)
        blurred = [Picture(p.scene, p.features[-1:]) for p in rng.sample(self._library.tiny, 4)]
        near = [c.one_picture(self._writer, rng, p, 3) for p in pictures]
        return (
            near
            if rng.random() < 0.75
            else [c.one_picture(self._writer, rng, p, 3) for p in blurred]
        )
