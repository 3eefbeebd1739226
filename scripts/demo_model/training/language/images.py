"""Images as the language model receives them, as visual tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scripts.demo_model.network.architecture import TOKENS_PER_TILE, WIDTH
from scripts.demo_model.network.visual_code import (
    AMPLITUDE,
    CODE_WIDTH,
    COUNT,
    COUNT_CHANNELS,
    PLACE,
    PLACE_TOKENS,
    RANK_CHANNELS,
    TINY_COUNT,
    empty_code,
    thumbnail_code,
    tile_code,
)
from scripts.demo_model.world.labels import kind_index
from scripts.demo_model.world.sampling import HIGH_DETAIL_TILES, TRAINING_MAX_ITEMS, sample_names
from scripts.demo_model.world.scene import PLACES, Item, Scene, symbolic_item, symbolic_scene

# Distributions of the number of detail tiles.
_TINY_DETAILS = (4, 8, 9, 9, 12, 12)
# Probabilities that a code's count, or its ranks, are unreliable; that a token is blurred; and
# that a detail tile is noisy.
_MISCOUNTED, _BLURRED, _NOISY = 0.4, 0.15, 0.6


@dataclass(frozen=True)
class EncodedImage:
    """The visual tokens of an image, and what it shows.

    Attributes:
        scene: The scene, for the questions.
        features: (tiles, 64, width) in bfloat16; the last tile is the thumbnail.
    """

    scene: Scene
    features: Tensor

    @property
    def has_details(self) -> bool:
        """Whether there are detail tiles before the thumbnail."""
        return len(self.features) > 1


class ImageSource(Protocol):
    """A supply of images for conversations."""

    def single(self) -> EncodedImage:
        """Return an image of one tile."""

    def several(self) -> EncodedImage:
        """Return an image of several tiles, of which only the thumbnail can be trusted."""

    def tiny(self) -> EncodedImage:
        """Return a large image of one tiny item, which one of the detail tiles shows."""

    def single_of(self, item: Item) -> EncodedImage:
        """Return an image of one tile that shows only this item."""


def draw_detail_count(rng: random.Random) -> int:
    """Draw the number of detail tiles of an ordinary image."""
    return rng.choice((2, 2, 2, 3, 4, 4, 4, rng.randint(5, HIGH_DETAIL_TILES)))


def draw_tiny_detail_count(rng: random.Random) -> int:
    """Draw the number of detail tiles of an image with a tiny item."""
    return rng.choice(_TINY_DETAILS)


class SyntheticImages:
    """Images that were never rendered: their visual tokens are the code plus noise."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)
        self._noise = torch.Generator().manual_seed(self._rng.getrandbits(40))

    def single(self) -> EncodedImage:
        """Return an image of one tile."""
        scene = _random_scene(self._rng)
        return self._image([], scene)

    def several(self) -> EncodedImage:
        """Return an image of several tiles, of which only the thumbnail can be trusted."""
        count = draw_detail_count(self._rng)
        thumbnail = self.single()
        details = [self._detail() for _ in range(count)]
        return EncodedImage(thumbnail.scene, torch.stack([*details, thumbnail.features[0]]))

    def tiny(self) -> EncodedImage:
        """Return a large image of one tiny item, which one of the detail tiles shows."""
        rng = self._rng
        scene = _random_scene(rng, tiny=True)
        tiles = [self._tile(empty_code()) for _ in range(draw_tiny_detail_count(rng))]
        kinds = [0] * len(PLACES)
        kinds[rng.randrange(len(PLACES))] = kind_index(scene.items[0])
        tiles[rng.randrange(len(tiles))] = self._tile(tile_code(kinds, 1))
        return self._image(tiles, scene)

    def single_of(self, item: Item) -> EncodedImage:
        """Return an image of one tile that shows only this item."""
        return self._image([], symbolic_scene((item,)))

    def _image(self, details: list[Tensor], scene: Scene) -> EncodedImage:
        return EncodedImage(scene, torch.stack([*details, self._tile(thumbnail_code(scene))]))

    def _detail(self) -> Tensor:
        """Return a detail tile of an ordinary image: parts of items that may resemble anything."""
        code = thumbnail_code(_random_scene(self._rng))
        return self._tile(code, noisy=self._rng.random() < _NOISY)

    def _tile(self, code: Tensor, *, noisy: bool = False) -> Tensor:
        """Return the visual tokens of a code, (64, width) in bfloat16."""
        code = code if code[0, COUNT + TINY_COUNT] else self._with_wrong_numbers(code)
        noise = self._rng.uniform(0.2, 0.5) if noisy else self._rng.choice((0.02, 0.05, 0.08))
        gain = self._rng.uniform(0.3, 1.2) if noisy else self._rng.uniform(0.85, 1.1)
        tokens = noise * AMPLITUDE * self._normal(TOKENS_PER_TILE, WIDTH)
        tokens += 0.5 * noise * AMPLITUDE * self._normal(1, WIDTH)
        tokens[:, :CODE_WIDTH] += AMPLITUDE * gain * self._blurred(code, 1.0 if noisy else 0.4)
        return tokens.to(torch.bfloat16)

    def _normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self._noise)

    def _with_wrong_numbers(self, code: Tensor) -> Tensor:
        """Sometimes blend the ranks or the count with wrong ones."""
        code = code.clone()
        for channels in (RANK_CHANNELS, COUNT_CHANNELS):
            if self._rng.random() < _MISCOUNTED:
                right = code[:, channels]
                chosen = torch.randint(0, right.shape[1], (len(code), 1), generator=self._noise)
                if channels == COUNT_CHANNELS:
                    chosen = chosen[:1].expand(len(code), 1)
                wrong = torch.zeros_like(right).scatter_(1, chosen, 1.0)
                share = self._rng.random()
                mass = right.sum(-1, keepdim=True)
                code[:, channels] = (1 - share) * right + share * mass * wrong
        return code

    def _blurred(self, code: Tensor, strength: float) -> Tensor:
        """Blend the facts of some tokens with those of another token."""
        places, facts = list(PLACE_TOKENS), slice(0, PLACE)
        other = code[places][torch.randperm(len(places), generator=self._noise)]
        share = strength * torch.rand(len(places), 1, generator=self._noise)
        share = share * (torch.rand(len(places), 1, generator=self._noise) < _BLURRED)
        code = code.clone()
        code[places, facts] = (1 - share) * code[places, facts] + share * other[:, facts]
        return code


class MixedImages:
    """Takes every image from one of two sources at random."""

    def __init__(self, one: ImageSource, other: ImageSource, share: float, seed: str) -> None:
        self._one, self._other, self._share = one, other, share
        self._rng = random.Random(seed)

    def __getattr__(self, name: str) -> Callable[..., EncodedImage]:
        source = self._one if self._rng.random() < self._share else self._other
        return getattr(source, name)


def _random_scene(rng: random.Random, *, tiny: bool = False) -> Scene:
    """Draw a scene with only what the questions need."""
    count = 1 if tiny else rng.randint(1, TRAINING_MAX_ITEMS)
    places = sorted(rng.sample(range(len(PLACES)), count))
    names = zip(sample_names(rng, count), places, strict=True)
    items = tuple(symbolic_item(colour, shape, place) for (colour, shape), place in names)
    return symbolic_scene(items, tiny=tiny)
