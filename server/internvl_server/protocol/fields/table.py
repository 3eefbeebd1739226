"""Which top-level fields an endpoint implements, accepts without effect (bookkeeping), or refuses by name.

The parser, the documentation and the tests read the same table. A refused field is accepted with a neutral
value (`audio: null`, `modalities: ["text"]`), because then nothing is ignored.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from internvl_server.errors import UnsupportedParameterError
from internvl_server.protocol.fields.marks import Extension, Needs

__all__ = ["FieldRow", "FieldTable", "known_fields"]

_MAX_SHOWN_CHARS = 64


@dataclass(frozen=True, slots=True)
class FieldRow:
    """An implemented field, as the documentation shows it.

    `needs` is the value of the engine capability without which the field is refused.
    """

    name: str
    note: str
    is_extension: bool
    needs: str | None


@dataclass(frozen=True, slots=True)
class FieldTable:
    """The top-level fields of one endpoint.

    Args:
        api: The API's name: `chat`, `completions`, `messages` or `responses`.
        model: Has the implemented fields.
        bookkeeping: Labels for the caller's records and hints for caches; the answer is the same without.
        refused: Maps a field to its neutral values, besides null.
        instead: Maps a refused field to what to do about it; "Leave it out." where nothing is given.
    """

    api: str
    model: type[BaseModel]
    bookkeeping: AbstractSet[str]
    refused: Mapping[str, tuple[Any, ...]]
    instead: Mapping[str, str] = field(default_factory=dict)

    @property
    def implemented(self) -> AbstractSet[str]:
        """The implemented fields, extensions included."""
        return self.model.model_fields.keys()

    @property
    def extensions(self) -> AbstractSet[str]:
        """The implemented fields that the published API does not have."""
        return {row.name for row in self.rows() if row.is_extension}

    def rows(self) -> Iterator[FieldRow]:
        """The implemented fields in alphabetical order, those of the published API first."""
        rows = (self._row(name) for name in sorted(self.implemented))
        yield from sorted(rows, key=lambda row: row.is_extension)

    def _row(self, name: str) -> FieldRow:
        info = self.model.model_fields[name]
        needs = [mark.capability for mark in info.metadata if isinstance(mark, Needs)]
        return FieldRow(
            name,
            note=info.description or "",
            is_extension=any(
                isinstance(mark, Extension) and (not mark.only_in or self.api in mark.only_in)
                for mark in info.metadata
            ),
            needs=needs[0] if needs else None,
        )


def known_fields(
    body: Mapping[str, Any], table: FieldTable, *, ignore_unknown: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The implemented fields of a request body, and the names of the ignored ones.

    Args:
        body: The whole body.
        table: The endpoint's fields.
        ignore_unknown: Ignore fields that are not in the table instead of refusing them.

    Raises:
        UnsupportedParameterError: For the first field that is neither implemented nor bookkeeping,
            unless its value is neutral.
    """
    kept: dict[str, Any] = {}
    ignored: list[str] = []
    implemented = table.model.model_fields
    for name, value in body.items():
        if name in implemented:
            kept[name] = value
        elif name in table.refused:
            _refuse(name, value, table)
        elif name not in table.bookkeeping:
            if not ignore_unknown:
                _refuse_unknown(name)
            ignored.append(name)
    return kept, tuple(ignored)


def _refuse_unknown(name: str) -> None:
    shown = name if len(name) <= _MAX_SHOWN_CHARS else f"{name[:_MAX_SHOWN_CHARS]}…"
    raise UnsupportedParameterError(
        f"Unknown parameter: '{shown}'. It is neither one of the API's nor one of this server's "
        "extensions.",
        param=shown,
        code="unknown_parameter",
    )


def _refuse(name: str, value: Any, table: FieldTable) -> None:  # noqa: ANN401  (any JSON value)
    if value is None or any(_is_same(value, neutral) for neutral in table.refused[name]):
        return
    instead = table.instead.get(name, "Leave it out.")
    raise UnsupportedParameterError(
        f"'{name}' is not supported by this server. {instead}", param=name
    )


def _is_same(value: Any, neutral: Any) -> bool:  # noqa: ANN401  (any JSON value)
    """Whether two values are equal, where `true` is not 1."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
