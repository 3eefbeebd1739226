"""Draws random scenes.

The order of the calls to the random generator is part of the interface: the same seed must give
the same scene, or the examination and the frozen test data would change.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from internvl_server.media.tiling import select_grid

from scripts.demo_model.world.colours import COLOURS, random_background, random_shade
from scripts.demo_model.world.scene import SHAPES, Item, Scene

Size = tuple[int, int]

# Limits of the world that the model is said to know, and the wider ones used in training.
# Sizes are diameters as a fraction of the image's short side.
MAX_ITEMS, TRAINING_MAX_ITEMS = 2, 4
MIN_SIZE, TRAINING_MIN_SIZE = 0.18, 0.13
MAX_SIZE = 0.45
TINY_MIN, TRAINING_TINY_MIN = 0.038, 0.025
TINY_MAX = 0.045
MAX_ANGLE = 10.0
# The maximum number of tiles of an image sent with ``detail: high``.
HIGH_DETAIL_TILES = 12
# The largest distance of an item from the middle of its place, as a fraction of the image.
_JITTER = 0.088
_PLACEMENT_ATTEMPTS = 30


@dataclass(frozen=True)
class _Canvas:
    """Constraints on new items: the image size, the range of item sizes, the items so far."""

    size: Size
    min_size: float
    max_size: float
    items: list[Item]

    def accepts(self, item: Item) -> bool:
        """Return whether an item lies inside the image and apart from all others."""
        return self._inside(item) and self._apart(item)

    def _inside(self, item: Item) -> bool:
        margin = item.radius + 0.01 * min(self.size)
        centre = item.x * self.size[0], item.y * self.size[1]
        return all(
            margin <= at <= length - margin for at, length in zip(centre, self.size, strict=True)
        )

    def _apart(self, item: Item) -> bool:
        (width, height), gap = self.size, 0.02 * min(self.size)
        return all(
            math.hypot((item.x - other.x) * width, (item.y - other.y) * height)
            >= item.radius + other.radius + gap
            for other in self.items
        )


def sample_scene(
    rng: random.Random,
    *,
    count: int | None = None,
    min_size: float = MIN_SIZE,
    max_items: int = MAX_ITEMS,
) -> Scene:
    """Draw a random scene with its items in reading order.

    Args:
        rng: Source of all randomness.
        count: Number of items; random when None.
        min_size: Smallest item size as a fraction of the image's short side.
        max_items: Largest number of items if the number is random.
    """
    size = _image_size(rng)
    names = sample_names(rng, count or rng.randint(1, max_items))
    while True:
        places = rng.sample(range(9), len(names))
        canvas = _Canvas(size, min_size, MAX_SIZE, [])
        for name, place in zip(names, places, strict=True):
            item = _fit_item(name, place, canvas, rng)
            if item is not None:
                canvas.items.append(item)
        if len(canvas.items) == len(names):
            return _finish(size, canvas.items, rng, tiny=False)


def sample_tiny_scene(rng: random.Random, *, min_size: float = TINY_MIN) -> Scene:
    """Draw a large image with one tiny item."""
    size = _image_size(rng, large=True)
    name = rng.choice(COLOURS), rng.choice(SHAPES)
    canvas = _Canvas(size, min_size, TINY_MAX, [])
    while True:
        item = _fit_item(name, rng.randrange(9), canvas, rng)
        if item is not None and _inside_one_tile(item, size):
            return _finish(size, [item], rng, tiny=True)


def sample_names(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Draw distinct (colour, shape) pairs; sometimes all share the colour or the shape."""
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    mode = rng.random()
    if mode < 0.12:
        shared = rng.choice(SHAPES)
        names = [name for name in names if name[1] == shared]
    elif mode < 0.22:
        shared = rng.choice(COLOURS)
        names = [name for name in names if name[0] == shared]
    return rng.sample(names, count)


def _image_size(rng: random.Random, *, large: bool = False) -> Size:
    """Draw an image size: mostly ordinary ones, with an aspect ratio up to about 2.2 to 1."""
    aspect = math.exp(rng.choice((0.0, rng.uniform(0, 0.3), rng.uniform(0, 0.8))))
    low, high = (1300, 1800) if large else rng.choice(((200, 500), (300, 900), (448, 1100)))
    if not large and rng.random() < 0.06:
        low, high = 1000, 2000
    short = rng.uniform(low, high)
    aspect = min(aspect, 1.35) if large else aspect
    long = min(short * aspect, 2000.0)
    short = min(short, long)
    size = round(long), round(short)
    return size if rng.random() < 0.6 else (size[1], size[0])


def _fit_item(
    name: tuple[str, str], place: int, canvas: _Canvas, rng: random.Random
) -> Item | None:
    """Try to fit an item at a place, with a smaller upper size at each attempt."""
    colour, shape = name
    low, high = canvas.min_size, canvas.max_size
    for _ in range(_PLACEMENT_ATTEMPTS):
        size = low * (high / low) ** rng.random()
        high = max(low, high * 0.93)
        x = (place % 3 + 0.5) / 3 + rng.uniform(-_JITTER, _JITTER)
        y = (place // 3 + 0.5) / 3 + rng.uniform(-_JITTER, _JITTER)
        radius = size * min(canvas.size) / 2
        shade = random_shade(colour, rng)
        item = Item(shape, colour, shade, x, y, radius, _angle(shape, rng), place)
        if canvas.accepts(item):
            return item
    return None


def _angle(shape: str, rng: random.Random) -> float:
    if shape == "circle" or rng.random() < 0.45:
        return 0.0
    return rng.uniform(-MAX_ANGLE, MAX_ANGLE)


def _inside_one_tile(item: Item, size: Size) -> bool:
    """Return whether a single tile of ``detail: high`` contains the whole item."""
    grid = select_grid(*size, max_tiles=HIGH_DETAIL_TILES)
    for centre, length, parts in zip((item.x, item.y), size, grid, strict=True):
        reach = 1.1 * item.radius / length
        if int((centre - reach) * parts) != int((centre + reach) * parts):
            return False
    return True


def _finish(size: Size, items: list[Item], rng: random.Random, *, tiny: bool) -> Scene:
    items.sort(key=lambda item: item.place)
    return Scene(
        width=size[0],
        height=size[1],
        background=random_background(rng, [item.rgb for item in items]),
        items=tuple(items),
        texture=rng.choice(("plain", "plain", "plain", "gradient", "noise", "blotches")),
        jpeg_quality=0 if rng.random() < 0.25 else rng.randint(45, 96),
        seed=rng.getrandbits(31),
        tiny=tiny,
    )
