"""Which lines of a batch are done. Kept in a temporary database on disk: a batch may have any length."""

import sqlite3
from types import TracebackType
from typing import Self

__all__ = ["Ledger"]

_TO_DO, _DONE, _FAILED = 0, 1, 2


class Ledger:
    """The `custom_id` of every line, each once, and what became of it. Use it as a context manager."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # a file without a name, gone when it is closed
        self._database.execute(
            "CREATE TABLE lines (custom_id TEXT PRIMARY KEY, state INTEGER NOT NULL) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def add(self, custom_id: str) -> bool:
        """Enter a line; false when there is one of that name already."""
        row = (custom_id, _TO_DO)
        return self._database.execute("INSERT OR IGNORE INTO lines VALUES (?, ?)", row).rowcount > 0

    def settle(self, custom_id: str, *, is_success: bool) -> None:
        """Note that a line is done; one that is not of this batch is passed over."""
        state = _DONE if is_success else _FAILED
        self._database.execute("UPDATE lines SET state = ? WHERE custom_id = ?", (state, custom_id))

    def is_settled(self, custom_id: str) -> bool:
        """Whether a line is done."""
        query = "SELECT state FROM lines WHERE custom_id = ?"
        row = self._database.execute(query, (custom_id,)).fetchone()
        return row is not None and row[0] != _TO_DO

    def counts(self) -> tuple[int, int, int]:
        """How many lines are to do, done, and failed."""
        query = "SELECT state, COUNT(*) FROM lines GROUP BY state"
        by_state: dict[int, int] = dict(self._database.execute(query).fetchall())
        return by_state.get(_TO_DO, 0), by_state.get(_DONE, 0), by_state.get(_FAILED, 0)
