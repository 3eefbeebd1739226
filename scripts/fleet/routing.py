"""Which replica a request goes to: in turn, to the least busy, or to the one that knows its picture."""

import hashlib
import itertools
import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

__all__ = ["POLICIES", "Affinity", "LeastOutstanding", "Policy", "RoundRobin"]

POINTS_A_REPLICA = 100


class Policy(Protocol):
    """Chooses a replica."""

    def choose(self, key: str, outstanding: Sequence[int]) -> int:
        """The index of a replica, given the key of the request and how many requests each replica has."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self, num_replicas: int) -> None:
        self._next = itertools.cycle(range(num_replicas))

    def choose(self, key: str, outstanding: Sequence[int]) -> int:
        del key, outstanding
        return next(self._next)


class LeastOutstanding:
    """The replica with the fewest requests; at random among several."""

    def __init__(self, num_replicas: int, seed: int = 0) -> None:
        del num_replicas
        self._random = random.Random(seed)

    def choose(self, key: str, outstanding: Sequence[int]) -> int:
        del key
        counts = np.asarray(outstanding)
        return int(self._random.choice(np.flatnonzero(counts == counts.min())))


class Affinity:
    """Consistent hashing with bounded load: the first replica on the ring that is not too busy.

    A replica is too busy with more than `factor` times the average number of requests. The key is that of a
    conversation: its system text and its first picture.
    """

    def __init__(self, num_replicas: int, factor: float = 1.25) -> None:
        points = sorted(
            (_hash(f"{replica}/{point}"), replica)
            for replica in range(num_replicas)
            for point in range(POINTS_A_REPLICA)
        )
        self._hashes = [point for point, _ in points]
        self._replicas = [replica for _, replica in points]
        self._factor = factor

    def choose(self, key: str, outstanding: Sequence[int]) -> int:
        bound = math.ceil(self._factor * (sum(outstanding) + 1) / len(outstanding))
        start = bisect(self._hashes, _hash(key))
        for step in range(len(self._replicas)):
            replica = self._replicas[(start + step) % len(self._replicas)]
            if outstanding[replica] < bound:
                return replica
        raise AssertionError("some replica is below the average")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


POLICIES: dict[str, Callable[[int], Policy]] = {
    "round robin": RoundRobin,
    "least outstanding": LeastOutstanding,
    "picture affinity": Affinity,
}
