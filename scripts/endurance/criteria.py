"""What a run is judged by, as rows of a table."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.load.figures import markdown_table
from scripts.load.machine import describe, described

__all__ = ["Criterion", "at_least", "at_most", "report"]


@dataclass(frozen=True)
class Criterion:
    """One row: what was found, and what must be. It has failed if there is no figure."""

    name: str
    value: float | str | None
    limit: str
    is_met: bool


def at_most(name: str, value: float | None, limit: float) -> Criterion:
    """A figure with an upper limit."""
    return Criterion(name, value, f"≤ {limit:g}", value is not None and value <= limit)


def at_least(name: str, value: float | None, limit: float) -> Criterion:
    """A figure with a lower limit."""
    return Criterion(name, value, f"≥ {limit:g}", value is not None and value >= limit)


def report(
    rows: Sequence[Criterion], facts: dict[str, str], notes: Iterable[str], path: Path | None
) -> int:
    """Print the run, and write it as JSON if there is a path. Returns the exit code."""
    cells = [[row.name, row.value, row.limit, "yes" if row.is_met else "NO"] for row in rows]
    print(described(describe() | facts), end="\n\n")
    print(markdown_table(["", "found", "required", "met"], cells))
    print("\n".join(["", *notes]))
    if path is not None:
        found: dict[str, Any] = {"facts": facts, "criteria": [asdict(row) for row in rows]}
        path.write_text(json.dumps(found, indent=1))
    return 0 if all(row.is_met for row in rows) else 1
