"""The named colours of the demo world, their shades, and backgrounds that contrast with them."""

from __future__ import annotations

import math
import random

Rgb = tuple[int, int, int]
_Range = tuple[float, float]

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

# Ranges of hue (degrees), saturation and value. The gaps between the ranges keep two colours
# distinguishable after JPEG compression.
_HSV: dict[str, tuple[_Range, _Range, _Range]] = {
    "red": ((-10, 8), (0.75, 1.0), (0.62, 1.0)),
    "orange": ((21, 40), (0.85, 1.0), (0.88, 1.0)),
    "yellow": ((50, 62), (0.70, 1.0), (0.88, 1.0)),
    "green": ((92, 150), (0.55, 1.0), (0.40, 1.0)),
    "blue": ((206, 242), (0.62, 1.0), (0.50, 1.0)),
    "purple": ((266, 302), (0.50, 1.0), (0.42, 0.88)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.10)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
}
# The smallest RGB distance between a background and the shapes in front of it.
_MIN_CONTRAST = 95
_BACKGROUND_ATTEMPTS = 40


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Rgb:
    """Convert hue in degrees, saturation and value to 8-bit RGB."""

    def channel(offset: int) -> int:
        k = (offset + hue / 60.0) % 6
        return round(255 * (value - value * saturation * max(0.0, min(k, 4 - k, 1.0))))

    return channel(5), channel(3), channel(1)


def random_shade(colour: str, rng: random.Random) -> Rgb:
    """Draw a random shade of a named colour."""
    hue, saturation, value = _HSV[colour]
    return hsv_to_rgb(rng.uniform(*hue) % 360, rng.uniform(*saturation), rng.uniform(*value))


def random_background(rng: random.Random, shades: list[Rgb]) -> Rgb:
    """Draw a background that contrasts with every given shade."""
    best, best_distance = (128, 128, 128), -1.0
    for _ in range(_BACKGROUND_ATTEMPTS):
        candidate = _background_candidate(rng)
        distance = min((math.dist(candidate, shade) for shade in shades), default=255.0)
        if distance > _MIN_CONTRAST:
            return candidate
        if distance > best_distance:
            best, best_distance = candidate, distance
    return best


def _background_candidate(rng: random.Random) -> Rgb:
    kind = rng.random()
    if kind < 0.30:
        return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.03), rng.uniform(0.94, 1.0))
    if kind < 0.38:
        return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.2), rng.uniform(0.0, 0.1))
    if kind < 0.70:
        return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.06), rng.uniform(0.28, 0.85))
    return hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.28), rng.uniform(0.55, 0.98))
