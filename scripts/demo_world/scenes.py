"""Scenes of the demo world: which coloured shapes lie where on a picture of which size."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from internvl_server.media.tiling import select_grid

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
COLOURS: tuple[str, ...] = (
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "black",
    "white",
)
# Reading order; the index is column + 3 * row of a 3x3 grid over the picture.
PLACES: tuple[str, ...] = (
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)

# Hue (degrees), saturation and value of every colour; the gaps between them are the margins
# that keep two colours apart after JPEG compression. The usual named colours lie inside.
_HSV: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-10, 8), (0.75, 1.0), (0.62, 1.0)),
    "orange": ((21, 40), (0.85, 1.0), (0.88, 1.0)),
    "yellow": ((50, 62), (0.70, 1.0), (0.88, 1.0)),
    "green": ((92, 150), (0.55, 1.0), (0.40, 1.0)),
    "blue": ((206, 242), (0.62, 1.0), (0.50, 1.0)),
    "purple": ((266, 302), (0.50, 1.0), (0.42, 0.88)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.10)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
}

# The most items of a picture.
MAX_ITEMS = 2
TRAINING_MAX_ITEMS = 4
MIN_SIZE = 0.18
# Training shows smaller ones too.
TRAINING_MIN_SIZE = 0.13
MAX_SIZE = 0.45
MAX_ANGLE = 10.0
TINY_MIN = 0.038
TRAINING_TINY_MIN = 0.025
TINY_MAX = 0.045
# The most tiles of a picture sent with ``detail: high``.
HIGH_TILES = 12
# How far a centre may lie from the middle of its 3x3 cell, as a part of the picture.
_JITTER = 0.088

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Item:
    """One coloured shape.

    Attributes:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        rgb: The exact shade.
        x: Centre, as a part of the picture's width.
        y: Centre, as a part of the picture's height.
        radius: Radius of the circle around the shape, in pixels of the picture.
        angle: Rotation in degrees.
        place: Index in ``PLACES``.
    """

    shape: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    radius: float
    angle: float
    place: int

    @property
    def name(self) -> str:
        """The item in words, such as ``red circle``."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A picture to be drawn: its size, its background and its items in reading order."""

    width: int
    height: int
    background: Rgb
    items: tuple[Item, ...]
    texture: str = "plain"
    jpeg_quality: int = 0
    seed: int = 0
    tiny: bool = field(default=False)

    def at(self, place: int) -> Item | None:
        """The item at a place, if there is one."""
        return next((item for item in self.items if item.place == place), None)

    def find(self, colour: str, shape: str) -> Item | None:
        """The item of that colour and shape, if there is one."""
        return next((i for i in self.items if (i.colour, i.shape) == (colour, shape)), None)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Rgb:
    """Convert hue in degrees, saturation and value to 8-bit RGB."""

    def channel(offset: int) -> int:
        k = (offset + hue / 60.0) % 6
        return round(255 * (value - value * saturation * max(0.0, min(k, 4 - k, 1.0))))

    return channel(5), channel(3), channel(1)


def shade(colour: str, rng: random.Random) -> Rgb:
    """A random shade of a named colour."""
    ranges = _HSV[colour]
    return hsv_to_rgb(
        rng.uniform(*ranges[0]) % 360, rng.uniform(*ranges[1]), rng.uniform(*ranges[2])
    )


def picture_size(rng: random.Random, *, large: bool = False) -> tuple[int, int]:
    """A random picture size: mostly ordinary ones, aspect up to about 2.2 to 1."""
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


def _distance(a: Rgb, b: Rgb) -> float:
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def _background_candidate(rng: random.Random) -> Rgb:
    kind = rng.random()
    if kind < 0.30:
        return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.03), rng.uniform(0.94, 1.0))
    if kind < 0.38:
        return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.2), rng.uniform(0.0, 0.1))
    if kind < 0.70:
        return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.06), rng.uniform(0.28, 0.85))
    return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.28), rng.uniform(0.55, 0.98))


def background(rng: random.Random, shades: list[Rgb]) -> Rgb:
    """A background clearly distinct from every shade that is drawn on it."""
    best, best_gap = (128, 128, 128), -1.0
    for _ in range(40):
        candidate = _background_candidate(rng)
        gap = min((_distance(candidate, s) for s in shades), default=255.0)
        if gap > 95:
            return candidate
        if gap > best_gap:
            best, best_gap = candidate, gap
    return best


def _angle(shape: str, rng: random.Random) -> float:
    if shape == "circle" or rng.random() < 0.45:
        return 0.0
    return rng.uniform(-MAX_ANGLE, MAX_ANGLE)


def _centre(place: int, rng: random.Random) -> tuple[float, float]:
    x = (place % 3 + 0.5) / 3 + rng.uniform(-_JITTER, _JITTER)
    y = (place // 3 + 0.5) / 3 + rng.uniform(-_JITTER, _JITTER)
    return x, y


def _inside(x: float, y: float, radius: float, width: int, height: int) -> bool:
    margin = radius + 0.01 * min(width, height)
    return margin <= x * width <= width - margin and margin <= y * height <= height - margin


def _apart(item: Item, others: list[Item], width: int, height: int) -> bool:
    gap = 0.02 * min(width, height)
    return all(
        math.hypot((item.x - o.x) * width, (item.y - o.y) * height) >= item.radius + o.radius + gap
        for o in others
    )


def _place_item(
    kind: tuple[str, str],
    place: int,
    size: tuple[int, int],
    sizes: tuple[float, float],
    others: list[Item],
    rng: random.Random,
) -> Item | None:
    """Try to fit an item at a place, smaller from try to try."""
    colour, shape = kind
    low, high = sizes
    for _ in range(30):
        part = low * (high / low) ** rng.random()
        high = max(low, high * 0.93)
        x, y = _centre(place, rng)
        radius = part * min(size) / 2
        item = Item(shape, colour, shade(colour, rng), x, y, radius, _angle(shape, rng), place)
        if _inside(x, y, radius, *size) and _apart(item, others, *size):
            return item
    return None


def sample_kinds(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Distinct (colour, shape) pairs; now and then several share the colour or the shape."""
    every = [(c, s) for c in COLOURS for s in SHAPES]
    mode = rng.random()
    if mode < 0.12:
        shape = rng.choice(SHAPES)
        every = [k for k in every if k[1] == shape]
    elif mode < 0.22:
        colour = rng.choice(COLOURS)
        every = [k for k in every if k[0] == colour]
    return rng.sample(every, count)


def sample_scene(
    rng: random.Random,
    *,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    kinds: list[tuple[str, str]] | None = None,
    min_size: float = MIN_SIZE,
    max_items: int = MAX_ITEMS,
) -> Scene:
    """A random scene of a few items.

    Args:
        rng: Source of all randomness.
        count: How many items; random when None.
        size: Width and height in pixels; random when None.
        kinds: The (colour, shape) pairs to draw; random when None.
        min_size: Of the smallest item, as a part of the picture's short side.
        max_items: The most items where their number is random.

    Returns:
        The scene, its items in reading order.
    """
    size = size or picture_size(rng)
    kinds = kinds or sample_kinds(rng, count or rng.randint(1, max_items))
    while True:
        places = rng.sample(range(9), len(kinds))
        items: list[Item] = []
        for kind, place in zip(kinds, places, strict=True):
            item = _place_item(kind, place, size, (min_size, MAX_SIZE), items, rng)
            if item is not None:
                items.append(item)
        if len(items) == len(kinds):
            return _finish(size, items, rng, tiny=False)


def _inside_one_tile(item: Item, size: tuple[int, int]) -> bool:
    """Whether no border between the tiles of ``detail: high`` cuts the item."""
    grid = select_grid(*size, max_tiles=HIGH_TILES)
    for centre, length, parts in zip((item.x, item.y), size, grid, strict=True):
        reach = 1.1 * item.radius / length
        if int((centre - reach) * parts) != int((centre + reach) * parts):
            return False
    return True


def sample_tiny_scene(rng: random.Random, *, min_size: float = TINY_MIN) -> Scene:
    """A large picture with one tiny shape on it."""
    size = picture_size(rng, large=True)
    kind = (rng.choice(COLOURS), rng.choice(SHAPES))
    while True:
        place = rng.randrange(9)
        item = _place_item(kind, place, size, (min_size, TINY_MAX), [], rng)
        if item is not None and _inside_one_tile(item, size):
            return _finish(size, [item], rng, tiny=True)


def _finish(size: tuple[int, int], items: list[Item], rng: random.Random, *, tiny: bool) -> Scene:
    items.sort(key=lambda item: item.place)
    return Scene(
        width=size[0],
        height=size[1],
        background=background(rng, [item.rgb for item in items]),
        items=tuple(items),
        texture=rng.choice(("plain", "plain", "plain", "gradient", "noise", "blotches")),
        jpeg_quality=0 if rng.random() < 0.25 else rng.randint(45, 96),
        seed=rng.getrandbits(31),
        tiny=tiny,
    )
