"""Finds the known field that a misspelt one stands for."""

from collections.abc import Iterable

__all__ = ["Speller"]

# Shorter names are close to anything, and longer ones than any field are not misspelt fields.
_MIN_CHARS = 4
_MAX_CHARS = 40
# Limit of compared names per request: each takes time, and a body may have a million of them.
_MAX_COMPARED = 64

# Maximum number of wrong letters in a misspelt name.
_MAX_DISTANCE = 2

# Names that programs use for something else, although they are close to that of a field.
_OTHER_WORDS = frozenset(
    {
        "callback", "callbacks", "context", "contexts", "exclude", "fallback", "max_time",
        "mode", "models", "modes", "operation", "option", "providers", "sampler",
        "speed", "top_m", "top_n", "typical",
    }
)  # fmt: skip


class Speller:
    """Suggests known names for unknown ones, in one request."""

    def __init__(self) -> None:
        self._num_left = _MAX_COMPARED

    def suggest(self, name: str, known: Iterable[str]) -> str | None:
        """The known name that is nearest to `name`, within two letters; None if there is none.

        Shorter names must be nearer, so that harmless ones are not taken for misspelt fields: one letter in
        names of five, and in names of four a letter that is missing, added or swapped with the next.
        """
        word = name.lower()
        if not _MIN_CHARS <= len(word) <= _MAX_CHARS or word in _OTHER_WORDS or not self._num_left:
            return None
        self._num_left -= 1
        found = [(_distance(word, other), other) for other in known if _is_near(word, other)]
        near = [(distance, other) for distance, other in found if distance <= _limit(word, other)]
        return min(near)[1] if near else None


def _is_near(word: str, other: str) -> bool:
    """Whether two words may be near to each other: a cheap test of their lengths and letters."""
    if len(other) < _MIN_CHARS or abs(len(word) - len(other)) > _MAX_DISTANCE:
        return False
    return len(set(word) ^ set(other)) <= 2 * _MAX_DISTANCE  # each letter may replace another


def _limit(word: str, other: str) -> int:
    num_chars = min(len(word), len(other))
    if num_chars > 5:  # noqa: PLR2004
        return _MAX_DISTANCE
    is_other_word = num_chars == _MIN_CHARS == max(len(word), len(other)) and sorted(
        word
    ) != sorted(other)
    return 0 if is_other_word else 1


def _distance(word: str, other: str) -> int:
    """Letters to add, remove, replace or swap with the next one (optimal string alignment).

    For words that are further apart than `_MAX_DISTANCE` it is only known to be greater than that.
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(word, start=1):
        row = [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and word[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
        if (
            min(*before, *last) > _MAX_DISTANCE
        ):  # later rows come from these two and cannot be smaller
            break
    return last[-1]
