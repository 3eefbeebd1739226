"""Stop strings, matched on text across token and chunk borders, never emitted, not even partly."""

from collections.abc import Sequence

__all__ = ["StopMatcher"]


class StopMatcher:
    """Passes text through until the first stop string; holds back what may become one.

    The result does not depend on how the text is cut into pieces: of all occurrences the one that
    ends first wins, and of those that end together the one that began first.

    Args:
        stops: Non-empty strings.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._max_held = max(map(len, self._stops), default=1) - 1
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Text that is certain not to be part of a stop string. Empty after a stop."""
        if self.is_stopped:
            return ""
        if not self._stops:
            return text
        held = self._held + text
        start = self._first_match(held)
        if start is not None:
            self.is_stopped = True
            self._held = ""
            return held[:start]
        split = len(held) - self._longest_prefix(held)
        self._held = held[split:]
        return held[:split]

    def flush(self) -> str:
        """What was held back, when no text will follow."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> int | None:
        """Start of the occurrence that ends first, the longest of those; None without one."""
        found = [(start + len(s), start) for s in self._stops if (start := text.find(s)) >= 0]
        return min(found)[1] if found else None

    def _longest_prefix(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(self._max_held, len(text))
        for length in range(longest, 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
