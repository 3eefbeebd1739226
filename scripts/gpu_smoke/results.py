"""Rows of the table, kept in a file as they come, so that a crash or a time limit loses none of them."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["READY", "TIME_LIMIT", "Check", "NotRunError", "Results", "Row", "State", "must"]

Check = Callable[[], Awaitable[str]]

_CHECK_LIMIT_S = 240.0
_LOAD_LIMIT_S = 1800.0
TIME_LIMIT = "the time limit: run it again to go on"
READY = "ready"  # the check that loads the model, in every trial


class NotRunError(Exception):
    """A check cannot be made here; the message says why."""


class State(StrEnum):
    BEGUN = "BEGUN"  # in the file only: whoever wrote it has not come back
    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True)
class Row:
    trial: str
    check: str
    state: State
    figures: str = ""
    seconds: float = 0.0


def must(holds: object, what: str) -> None:
    """Fail a check, with a reason."""
    if not holds:
        raise AssertionError(what)


class Results:
    """The rows of a file, a line of JSON each; of one check the last counts.

    Args:
        path: The file; it need not exist.
        deadline: `time.monotonic()` after which no check begins.
    """

    def __init__(self, path: Path, deadline: float) -> None:
        self._path, self.deadline = path, deadline
        self._reasons: dict[str, str] = {}

    def rows(self) -> dict[tuple[str, str], Row]:
        if not self._path.exists():
            return {}
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        rows = [Row(**line | {"state": State(line["state"])}) for line in lines]
        return {(row.trial, row.check): row for row in rows}

    def add(self, row: Row) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    def forget(self, trials: Iterable[str]) -> None:
        """Remove all rows of some trials."""
        gone = set(trials)
        kept = [row for row in self.rows().values() if row.trial not in gone]
        self._path.unlink(missing_ok=True)
        for row in kept:
            self.add(row)

    def is_done(self, trial: str, check: str) -> bool:
        row = self.rows().get((trial, check))
        return row is not None and row.state in (State.PASSED, State.FAILED)

    def is_passed(self, trial: str, check: str) -> bool:
        row = self.rows().get((trial, check))
        return row is not None and row.state is State.PASSED

    def missing(self, trial: str, checks: Iterable[str]) -> list[str]:
        return [check for check in checks if not self.is_done(trial, check)]

    async def run(self, trial: str, checks: Mapping[str, Check]) -> None:
        """Make the checks that have no result yet, until the deadline."""
        for name in self.missing(trial, checks):
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.explain(trial, TIME_LIMIT)
                return
            limit_s = _LOAD_LIMIT_S if name == READY else _CHECK_LIMIT_S
            await self.make(trial, name, checks[name], min(left, limit_s))

    async def make(self, trial: str, name: str, check: Check, limit_s: float) -> None:
        """Make one check. Whatever it raises is its row."""
        self.add(Row(trial, name, State.BEGUN))
        start = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                state, figures = State.PASSED, await check()
        except NotRunError as error:
            state, figures = State.NOT_RUN, str(error)
        except TimeoutError:
            is_ours = time.monotonic() < self.deadline
            state = State.FAILED if is_ours else State.NOT_RUN
            figures = f"no result in {limit_s:.0f} s"
        except Exception as error:  # noqa: BLE001  (its row)
            name_of = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            state, figures = State.FAILED, f"{name_of}{error}"[:400]
        self.add(Row(trial, name, state, figures, time.monotonic() - start))

    def end_begun(self, trial: str, state: State, reason: str) -> bool:
        """Give what a process had begun when it ended a result. Returns whether there was something."""
        begun = [
            row for row in self.rows().values() if (row.trial, row.state) == (trial, State.BEGUN)
        ]
        for row in begun:
            self.add(Row(trial, row.check, state, reason))
        return bool(begun)

    def explain(self, trial: str, reason: str) -> None:
        """Why the checks of a trial that have no row have none."""
        self._reasons[trial] = reason

    def table(self, expected: Mapping[str, Iterable[str]]) -> list[Row]:
        """A row for every expected check."""
        rows = self.rows()
        return [
            rows.get((trial, check))
            or Row(trial, check, State.NOT_RUN, self._reasons.get(trial, "not asked for"))
            for trial, checks in expected.items()
            for check in checks
        ]
