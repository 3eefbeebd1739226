"""Counts the tokens of all answers, and the times between them, at almost no cost for each."""

from bisect import bisect_left
from collections import Counter
from threading import Lock
from typing import Protocol

__all__ = ["GAP_BOUNDS", "TokenMeter"]

GAP_BOUNDS = (
    0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the buckets of times between tokens, in seconds."""


class Counted(Protocol):
    """An answer that is being generated."""

    @property
    def num_tokens(self) -> int:
        """Its tokens so far."""


class TokenMeter:
    """Tokens since the start, and how long each one was waited for.

    An answer appends to `gaps` the seconds since its previous tokens came, as they come. `fold` sorts them
    into buckets; it is called now and then, so that the list stays short. May be read from any thread.
    """

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._answers: set[Counted] = set()
        self._num_of_ended = 0
        self._counts: Counter[int] = Counter()
        self._sum = 0.0
        self._lock = Lock()

    def begin(self, answer: Counted) -> None:
        """Count the tokens of an answer from now on."""
        self._answers.add(answer)

    def end(self, answer: Counted) -> None:
        """Keep the number of an answer's tokens; the answer is forgotten. Idempotent."""
        if answer in self._answers:
            self._num_of_ended += answer.num_tokens
            self._answers.discard(answer)

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers since the start."""
        return self._num_of_ended + sum(answer.num_tokens for answer in tuple(self._answers))

    def fold(self) -> tuple[list[int], float]:
        """Sort the gaps into buckets.

        Returns:
            The number of gaps up to each of `GAP_BOUNDS`, and of all; and their sum in seconds.
        """
        with self._lock:
            gaps = self.gaps[:]
            del self.gaps[: len(gaps)]
            self._counts.update(bisect_left(GAP_BOUNDS, gap) for gap in gaps)
            self._sum += sum(gaps)
            totals, total = [], 0
            for index in range(len(GAP_BOUNDS) + 1):
                total += self._counts[index]
                totals.append(total)
            return totals, self._sum
