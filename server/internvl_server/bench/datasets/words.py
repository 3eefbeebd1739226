"""Texts of exactly so many tokens, made of words whose tokens are counted once."""

import numpy as np

from internvl_server.bench.datasets.counting import TokenCounter

__all__ = ["TextMaker"]

_WORDS = (
    "a", "I", "on", "red", "the", "blue", "word", "green", "house", "river",
    "yellow", "picture", "mountain", "different", "left", "right", "above", "below", "small", "large",
    "old", "new", "first", "second", "image", "colour", "light", "paper", "water", "stone",
)  # fmt: skip
_MAX_CORRECTIONS = 8


class TextMaker:
    """Makes texts of random words.

    The tokens of words with a space before them add up for the usual tokenizers; every text is counted as a
    whole and corrected nevertheless.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._costs: dict[str, int] = {}

    async def text(self, num_tokens: int, rng: np.random.Generator) -> tuple[str, int]:
        """A text, and how many tokens it has: another number only if no words make exactly so many."""
        if not self._costs:
            self._costs = {word: await self._counter.count(f" {word}") for word in _WORDS}
        words: list[str] = []
        self._append(words, num_tokens, rng)
        best, missed = "", num_tokens
        for _ in range(_MAX_CORRECTIONS):
            text = " ".join(words)
            missing = num_tokens - (await self._counter.count(text) if text else 0)
            if not best or abs(missing) < abs(missed):
                best, missed = text, missing
            if not missing:
                break
            least = min(self._costs.values())
            while missing < least and words:  # the rest of the text is changed instead
                missing += self._costs[words.pop()]
            self._append(words, missing, rng)
        return best, num_tokens - missed

    def _append(self, words: list[str], num_tokens: int, rng: np.random.Generator) -> None:
        """Add words of so many tokens altogether, or of fewer if no words fill the rest."""
        names, costs = list(self._costs), list(self._costs.values())
        least, most = min(costs), max(costs)
        # Far from the end every word fits.
        for index in rng.integers(len(names), size=max(0, num_tokens // most - 2)):
            words.append(names[index])
            num_tokens -= costs[index]
        while num_tokens >= least:
            fitting = [
                word
                for word, cost in self._costs.items()
                if cost == num_tokens or num_tokens - cost >= least
            ]
            if not fitting:
                return
            words.append(fitting[rng.integers(len(fitting))])
            num_tokens -= self._costs[words[-1]]
