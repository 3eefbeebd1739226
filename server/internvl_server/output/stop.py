"""Stop strings, matched on text across token and chunk borders, never emitted in part."""

from collections.abc import Sequence

__all__ = ["StopMatcher"]

# Most positions ruled out per stop string and piece of text. More are needed only after a long partial match
# of a repetitive stop string fails; the remaining text is then released with the next pieces.
_MAX_PLACES = 64


class StopMatcher:
    """Passes text through until the first stop string; holds back what may become one.

    The text does not depend on how it is cut into pieces: of all occurrences the one that ends first wins,
    and of those that end together the one that begins first. Less text is held back than the longest stop
    string has characters. `found` is the stop string that ended the text; None until there is one.

    Args:
        stops: Non-empty strings.
        is_shown: Whether the stop string that was found is passed on too.
    """

    def __init__(self, stops: Sequence[str], *, is_shown: bool = False) -> None:
        self._places = dict.fromkeys(stops, 0)  # where in the held text each may begin
        self._is_shown = is_shown
        self._held = ""
        self.found: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string ended the text."""
        return self.found is not None

    @property
    def is_active(self) -> bool:
        """Whether there is anything to stop at."""
        return bool(self._places)

    def push(self, text: str) -> str:
        """Text that can be emitted safely. Empty after a stop."""
        if self.is_stopped or not self._places:
            return "" if self.is_stopped else text
        text = self._held + text
        places = {stop: _find(stop, text, start) for stop, start in self._places.items()}
        ends = [(at + len(stop), at) for stop, at in places.items() if text.startswith(stop, at)]
        if ends:
            end, start = min(ends)
            self.found, self._held = text[start:end], ""
            return text[: end if self._is_shown else start]
        split = min(places.values())
        self._places = {stop: at - split for stop, at in places.items()}
        self._held = text[split:]
        return text[:split]

    def flush(self) -> str:
        """What was held back, when no text will follow."""
        held, self._held = self._held, ""
        return held


def _find(stop: str, text: str, start: int) -> int:
    """Where `stop` stands in `text` or may begin at its end, at or after `start`; else the text's length."""
    if (found := text.find(stop, start)) >= 0:
        return found
    start = max(start, len(text) - len(stop) + 1)
    for _ in range(_MAX_PLACES):
        start = text.find(stop[0], start)
        if start < 0:
            return len(text)
        if stop.startswith(text[start:]):
            return start
        start += 1
    return start
