"""When requests are sent: a schedule made before the first is sent, so that no server can slow it."""

import math

import numpy as np

__all__ = ["schedule"]


def schedule(
    num_requests: int, rate: float, *, burstiness: float = 1.0, seed: int = 0
) -> list[float]:
    """The arrivals of an open loop, in seconds from its start.

    Intervals follow a gamma distribution whose shape is `burstiness`: 1 makes a Poisson process, less makes
    bursts, infinity makes constant intervals. They are scaled so that the last arrival is at
    `num_requests / rate`: runs with other seeds then last equally long.

    Args:
        num_requests: How many, at least 1.
        rate: Requests a second; infinity sends all at once.
        burstiness: Shape of the distribution, above 0.
        seed: Of the random numbers.
    """
    if math.isinf(rate):
        return [0.0] * num_requests
    if math.isinf(burstiness):
        return [(number + 1) / rate for number in range(num_requests)]
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.gamma(burstiness, 1.0, num_requests))
    scaled: list[float] = (times * (num_requests / rate / times[-1])).tolist()
    return scaled
