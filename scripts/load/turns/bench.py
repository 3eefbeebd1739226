"""Runs the systems of a part beside each other and measures them in turn."""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.load.servers import ServerError
from scripts.load.turns.parts import Measure, Part, System, SystemKind
from scripts.load.turns.records import Record, Records

__all__ = ["Bench"]

_FRESH = 100_000  # prompts and pictures of a measurement


@dataclass
class Bench:
    """Goes on where an earlier run has stopped.

    Args:
        new: Creates a system; it is started afterwards.
        records: Measurements so far.
        deadline: `time.monotonic()` after which none begins.
        rounds: Of each measurement.
    """

    new: Callable[[SystemKind], System]
    records: Records
    deadline: float
    rounds: int = 1
    _running: dict[str, System] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(int(time.time()) * _FRESH, _FRESH)

    async def run(self, chosen: Sequence[Part]) -> None:
        """Measure what is missing."""
        try:
            for part in chosen:
                if self._missing(part) and time.monotonic() < self.deadline:
                    print(f"{part.name} ...", file=sys.stderr, flush=True)
                    await self._start(part)
                    await self._measure(part)
        finally:
            await self._stop_all_but(())

    def _missing(self, part: Part) -> list[tuple[Measure, int, SystemKind]]:
        return [
            (measure, number, kind)
            for measure in part.measures
            for number in range(self.rounds)
            for kind in part.systems
            if not self.records.has((part.name, measure.name, kind.title, number))
        ]

    async def _start(self, part: Part) -> None:
        """Start the systems of a part that do not run yet, and stop the others."""
        await self._stop_all_but(kind.title for kind in part.systems)
        self._problems.clear()
        for kind in part.systems:
            if kind.title not in self._running:
                try:
                    self._running[kind.title] = system = self.new(kind)
                    await system.start()
                except (ServerError, OSError) as error:
                    self._problems[kind.title] = f"it did not start: {error}"

    async def _stop_all_but(self, titles: Iterable[str]) -> None:
        for title in self._running.keys() - set(titles):
            await self._running.pop(title).stop()

    async def _measure(self, part: Part) -> None:
        for measure, number, kind in self._missing(part):
            if time.monotonic() > self.deadline:
                return
            figures: dict[str, Any] = {}
            problem = self._problems.get(kind.title, "")
            if not problem:
                try:
                    figures = await measure.run(self._running[kind.title], next(self._numbers))
                except (ServerError, ValueError, OSError) as error:
                    problem = f"{type(error).__name__}: {error}"[:400]
            self.records.add(Record(part.name, measure.name, kind.title, number, figures, problem))
