"""Stop strings, matched on text across token and chunk borders, never emitted in part.

Knuth, Morris and Pratt's automaton, one a string: linear in the text however long the strings are.
"""

from array import array
from collections.abc import Sequence

__all__ = ["StopMatcher", "StopStrings"]


class StopStrings:
    """What is prepared of stop strings once, for all the texts they are looked for in. CPU-bound."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.tables = [(stop, _fallbacks(stop)) for stop in stops]


class StopMatcher:
    """Passes text through until the first stop string; holds back what may become one.

    The result does not depend on how the text is cut into pieces: of all occurrences the one that
    ends first wins, and of those that end together the one that began first.

    Args:
        stops: Non-empty strings, or what was prepared of them for several matchers.
        is_shown: Whether the string that was found is passed on too; else nothing of it is.
    """

    def __init__(self, stops: "StopStrings | Sequence[str]", *, is_shown: bool = False) -> None:
        self._is_shown = is_shown
        prepared = stops if isinstance(stops, StopStrings) else StopStrings(stops)
        self._automata = [_Automaton(*table) for table in prepared.tables]
        self._held = ""
        self.is_stopped = False

    @property
    def is_active(self) -> bool:
        """Whether there is anything to stop at."""
        return bool(self._automata)

    def push(self, text: str) -> str:
        """Text that is certain not to be part of a stop string. Empty after a stop."""
        if self.is_stopped:
            return ""
        if not self._automata:
            return text
        held = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            if matched := max(automaton.step(char) for automaton in self._automata):
                self.is_stopped = True
                self._held = ""
                return held[: end if self._is_shown else end - matched]
        split = len(held) - max(automaton.num_matched for automaton in self._automata)
        self._held = held[split:]
        return held[:split]

    def flush(self) -> str:
        """What was held back, when no text will follow."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """How much of the end of the text so far begins one stop string."""

    def __init__(self, stop: str, fallback: Sequence[int]) -> None:
        self._stop = stop
        self._fallback = fallback
        self.num_matched = 0

    def step(self, char: str) -> int:
        """Take one more character; the string's length when it is complete, else 0."""
        while self.num_matched and self._stop[self.num_matched] != char:
            self.num_matched = self._fallback[self.num_matched - 1]
        if self._stop[self.num_matched] == char:
            self.num_matched += 1
        return self.num_matched if self.num_matched == len(self._stop) else 0


def _fallbacks(stop: str) -> Sequence[int]:
    """For each beginning of the string: the longest shorter beginning that it also ends with."""
    fallbacks = array("L", bytes(len(stop) * array("L").itemsize))
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = fallbacks[length - 1]
        length += stop[index] == stop[length]
        fallbacks[index] = length
    return fallbacks
