"""Distributions of lengths: `512`, `uniform:100:900`, `normal:512:128`, `lognormal:512:0.5`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Lengths"]


@dataclass(frozen=True)
class Lengths:
    """A distribution of whole numbers of at least 1."""

    text: str
    draw: Callable[[np.random.Generator], float]

    def sample(self, rng: np.random.Generator) -> int:
        """One length."""
        return max(1, round(self.draw(rng)))

    @classmethod
    def parse(cls, text: str, range_ratio: float = 0.0) -> "Lengths":
        """Read a distribution.

        Args:
            text: A number; `uniform:LOW:HIGH`; `normal:MEAN:DEVIATION`; `lognormal:MEDIAN:SIGMA`, whose
                logarithm has the standard deviation SIGMA.
            range_ratio: Makes a number uniform between (1 - ratio) and (1 + ratio) of it.

        Raises:
            ValueError: It is none of them.
        """
        kind, *words = text.split(":") if ":" in text else ("fixed", text)
        values = [float(word) for word in words]
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"{text!r}: numbers must not be negative")
        match kind, values:
            case "fixed", [value]:
                low, high = value * (1 - range_ratio), value * (1 + range_ratio)
                return cls(text, lambda rng: rng.uniform(low, high))
            case "uniform", [low, high] if low <= high:
                return cls(text, lambda rng: rng.uniform(low, high))
            case "normal", [mean, deviation]:
                return cls(text, lambda rng: rng.normal(mean, deviation))
            case "lognormal", [median, sigma] if median > 0:
                return cls(text, lambda rng: rng.lognormal(math.log(median), sigma))
        raise ValueError(
            f"{text!r} is not a number, uniform:LOW:HIGH, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA"
        )
