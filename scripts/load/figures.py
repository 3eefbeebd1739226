"""Percentiles, medians, and tables in Markdown."""

import statistics
from collections.abc import Iterable, Sequence

__all__ = ["markdown_table", "median", "percentile", "ratio"]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of them are; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Numbers are written with three digits, and what is unknown as a dash."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")
