"""Measurements, kept in a file as they come; and the tables made of them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.load.figures import markdown_table, median, ratio
from scripts.load.turns.parts import Part

__all__ = ["Columns", "Record", "Records", "tables"]


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


@dataclass(frozen=True)
class Columns:
    """Titles of a table's columns and the figures in them, and of which figures ratios are meant."""

    figures: Mapping[str, str]
    ratios: tuple[str, ...]


def tables(records: Records, every: Iterable[Part], columns: Columns) -> Iterator[str]:
    """A table for each part: medians of the rounds, and ours as a share of LMDeploy's server."""
    for part in every:
        if part.measures:
            rows = [
                row
                for measure in part.measures
                for row in _rows(records, part, measure.name, columns)
            ]
            head = ("", "system", *columns.figures, "")
            yield f"### {part.name[0].upper()}{part.name[1:]}\n\n{markdown_table(head, rows)}"


def _rows(records: Records, part: Part, measure: str, columns: Columns) -> Iterator[list[object]]:
    found: dict[str, dict[str, float | None]] = {}
    for system in part.systems:
        rounds = records.of(part.name, measure, system.title)
        names = columns.figures.values()
        found[system.title] = {
            name: median(record.figures.get(name) for record in rounds) for name in names
        }
        yield [measure, system.title, *found[system.title].values(), _note(rounds)]
    if {"ours", "lmdeploy"} <= found.keys():
        shares = [
            ratio(found["ours"][name], found["lmdeploy"][name]) if name in columns.ratios else ""
            for name in columns.figures.values()
        ]
        yield [measure, "ours / lmdeploy", *shares, ""]


def _note(rounds: list[Record]) -> str:
    """What is wrong with a row."""
    problems = [record.problem for record in rounds if record.problem]
    failures = [
        record.figures["first_failure"] for record in rounds if record.figures.get("num_failed")
    ]
    return next(iter(problems + failures), "" if rounds else "NOT RUN")
