"""Draws batches of conversations of all forms."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tokenizers import Tokenizer

from scripts.demo_model.training.language import conversations as c
from scripts.demo_model.training.language.batches import TextBatch, collate
from scripts.demo_model.training.language.images import EncodedImage, ImageSource
from scripts.demo_model.training.language.sequences import Sequence, SequenceWriter
from scripts.demo_model.world.scene import PLACES

# Images with more tiles are not combined with others in one batch, or in one conversation.
_MOST_TILES_OF_BATCH, _MOST_TILES_OF_TWO = 5, 6
# Numbers of turns of long conversations, and about how many images a batch of them has.
_TURNS, _IMAGES_OF_TURNS = (2, 3, 5, 8, 10, 14, 20, 28, 40), 16


@dataclass(frozen=True)
class Mixture:
    """The relative frequency of each form of conversation."""

    single: float
    several: float
    last: float
    two: float
    text: float
    tiny: float
    video: float
    turns: float = 0.0


EARLY = Mixture(single=0.64, several=0.12, last=0.03, two=0.16, text=0.02, tiny=0.0, video=0.03)
LATE = Mixture(single=0.35, several=0.22, last=0.04, two=0.26, text=0.02, tiny=0.06, video=0.05)
LONG = replace(LATE, video=0.15, turns=0.7)


class BatchSource:
    """Draws batches of conversations about the images of one source."""

    def __init__(self, images: ImageSource, tokenizer: Tokenizer, seed: str) -> None:
        self._images, self._writer = images, SequenceWriter(tokenizer)
        self._rng = random.Random(seed)
        self._forms = {
            "single": self._single,
            "several": self._several,
            "last": self._last,
            "two": self._two,
            "text": self._text,
            "tiny": self._tiny,
            "video": self._video,
            "turns": self._turns,
        }

    def batch(self, form: str) -> TextBatch:
        """Return a batch of one form; the batches of all forms cost about the same."""
        return collate(self._forms[form]())

    def draw(self, mixture: Mixture) -> TextBatch:
        """Return a batch of a form that is drawn from the mixture."""
        weights = vars(mixture)
        return self.batch(self._rng.choices(list(weights), list(weights.values()))[0])

    def _about(self, images: list[EncodedImage], branches: int) -> list[Sequence]:
        return [c.one_image(self._writer, self._rng, image, branches) for image in images]

    def _single(self) -> list[Sequence]:
        return self._about([self._images.single() for _ in range(14)], 4)

    def _several(self) -> list[Sequence]:
        first = self._images.several()
        if len(first.features) > _MOST_TILES_OF_BATCH:
            return self._about([first], 6)
        more = [self._images.several() for _ in range(4)]
        small = [image for image in more if len(image.features) <= _MOST_TILES_OF_BATCH]
        return self._about([first, *small], 6)

    def _any(self) -> EncodedImage:
        while self._rng.random() >= 0.65:
            image = self._images.several()
            if len(image.features) <= _MOST_TILES_OF_TWO:
                return image
        return self._images.single()

    def _last(self) -> list[Sequence]:
        return [c.image_last(self._writer, self._rng, self._any()) for _ in range(6)]

    def _two(self) -> list[Sequence]:
        pairs = [(self._any(), self._any()) for _ in range(4)]
        return [c.two_images(self._writer, self._rng, pair, 6) for pair in pairs]

    def _turns(self) -> list[Sequence]:
        count = self._rng.choice(_TURNS)
        rows = max(1, _IMAGES_OF_TURNS // count)
        images = [[self._mostly_single() for _ in range(count)] for _ in range(rows)]
        return [c.many_turns(self._writer, self._rng, each) for each in images]

    def _mostly_single(self) -> EncodedImage:
        image = self._images.several() if self._rng.random() < 0.12 else self._images.single()
        return image if len(image.features) <= _MOST_TILES_OF_BATCH else self._images.single()

    def _text(self) -> list[Sequence]:
        return [c.no_image(self._writer, self._rng, 8) for _ in range(4)]

    def _tiny(self) -> list[Sequence]:
        """Ask about an image with detail tiles, and about thumbnails that show too little."""
        detailed = self._images.tiny()
        thumbnails = [self._images.tiny().features[-1:] for _ in range(4)]
        images = [detailed, *(EncodedImage(detailed.scene, tile) for tile in thumbnails)]
        if self._rng.random() < 0.4:
            images = images[1:]
        return self._about(images, 4)

    def _video(self) -> list[Sequence]:
        """Ask about one moving shape, which may appear at either of two places between them."""
        rng = self._rng
        count, item = rng.randint(4, 8), self._images.single().scene.items[0]
        start, end = rng.sample(range(len(PLACES)), 2)
        frames = []
        for index in range(count):
            part = index / (count - 1)
            column = round((1 - part) * (start % 3) + part * (end % 3) + rng.uniform(-0.01, 0.01))
            row = round((1 - part) * (start // 3) + part * (end // 3) + rng.uniform(-0.01, 0.01))
            place = (start, end)[index > 0] if index in (0, count - 1) else column + 3 * row
            frames.append(self._images.single_of(replace(item, place=place)))
        return [c.video(self._writer, rng, frames, 4)]
