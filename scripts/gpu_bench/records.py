"""Measurements, kept in a file as they come; and the tables made of them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.gpu_bench.parts import Part
from scripts.load.figures import markdown_table, median, ratio

__all__ = ["Record", "Records", "tables"]

_COLUMNS = {
    "first token p50 ms": "ttft_p50_ms", "p99": "ttft_p99_ms", "gap p50 ms": "gap_p50_ms",
    "p99 ": "gap_p99_ms", "tokens/s": "tokens_per_s", "requests/s": "requests_per_s",
    "loop µs a token": "loop_us_per_token", "process": "process_us_per_token",
    "frames a token": "frames_per_token", "prompt": "prompt_tokens", "failed": "num_failed",
}  # fmt: skip
_RATIOS = "ttft_p50_ms", "gap_p99_ms", "tokens_per_s", "loop_us_per_token", "process_us_per_token"


@dataclass(frozen=True)
class Record:
    """One round of one system; `figures` are those of a `Round`, or `problem` says why there are none."""

    part: str
    measure: str
    system: str
    number: int
    figures: dict[str, Any]
    problem: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.part, self.measure, self.system, self.number


class Records:
    """A file with a line of JSON for each measurement."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._found = {record.key: record for record in (Record(**json.loads(x)) for x in lines)}

    def add(self, record: Record) -> None:
        self._found[record.key] = record
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def has(self, key: tuple[str, str, str, int]) -> bool:
        """Whether there are figures; those that failed are measured again."""
        record = self._found.get(key)
        return record is not None and not record.problem

    def of(self, part: str, measure: str, system: str) -> list[Record]:
        """All rounds."""
        wanted = part, measure, system
        return [record for key, record in self._found.items() if key[:3] == wanted]

    def has_failure(self, every: Iterable[Part]) -> bool:
        """Whether a measurement of these parts, or one of its requests, failed."""
        names = {part.name for part in every}
        return any(
            record.problem or record.figures["num_failed"]
            for record in self._found.values()
            if record.part in names
        )

    def as_list(self) -> list[dict[str, Any]]:
        return [asdict(record) for record in self._found.values()]


def tables(records: Records, every: Iterable[Part]) -> Iterator[str]:
    """A table for each part: medians of the rounds, and ours as a share of LMDeploy's server."""
    for part in every:
        if part.measures:
            rows = [row for measure in part.measures for row in _rows(records, part, measure.name)]
            head = ("", "system", *_COLUMNS, "")
            yield f"### {part.name[0].upper()}{part.name[1:]}\n\n{markdown_table(head, rows)}"


def _rows(records: Records, part: Part, measure: str) -> Iterator[list[object]]:
    found: dict[str, dict[str, float | None]] = {}
    for system in part.systems:
        rounds = records.of(part.name, measure, system.title)
        problems = [record.problem for record in rounds if record.problem]
        figures = {
            name: median(record.figures.get(name) for record in rounds)
            for name in _COLUMNS.values()
        }
        found[system.title] = figures
        note = problems[-1] if problems else "" if rounds else "NOT RUN"
        if any(record.figures.get("num_failed") for record in rounds):
            note = next(r.figures["first_failure"] for r in rounds if r.figures["num_failed"])
        yield [measure, system.title, *figures.values(), note]
    if {"ours", "lmdeploy"} <= found.keys():
        shares = [
            ratio(found["ours"][name], found["lmdeploy"][name]) if name in _RATIOS else ""
            for name in _COLUMNS.values()
        ]
        yield [measure, "ours / lmdeploy", *shares, ""]
