"""Which top-level fields an endpoint implements, accepts without effect (bookkeeping), or refuses by name.

The parser, the documentation and the tests read the same table. A refused field is accepted with a neutral
value (`audio: null`, `modalities: ["text"]`), because then nothing is ignored. An empty value of an optional
field is like null, but for a list or an object in the place of a number or a text.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from internvl_server.errors import InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.fields.annotations import Extension, Needs
from internvl_server.protocol.fields.members import (
    DefinedNames,
    Foreign,
    RefusedMemberError,
    known_members,
    shown_name,
)
from internvl_server.protocol.fields.neutral import is_same
from internvl_server.protocol.fields.suggestions import Speller

__all__ = ["FieldRow", "FieldTable", "known_fields", "refusal"]

# Prompts: an empty one is not treated as missing, even where the field is optional.
_PROMPTS = frozenset({"input", "messages", "prompt"})


@dataclass(frozen=True, slots=True)
class FieldRow:
    """An implemented field, as the documentation shows it.

    `needs` is the value of the engine capability without which the field is refused.
    """

    name: str
    note: str
    is_extension: bool
    needs: str | None


@dataclass(frozen=True)
class FieldTable:
    """The top-level fields of one endpoint. What is in none of these groups is unknown.

    Args:
        api: The API's name: `chat`, `completions`, `messages` or `responses`.
        model: Has the implemented fields.
        bookkeeping: Labels for the caller's records and hints for caches, which do not affect the answer.
        refused: Maps a field to its neutral values, besides null, `""` and `[]`.
        instead: Maps a refused field to what to use instead, as a sentence; the default is "Leave it out."
        foreign: Fields of other servers.
    """

    api: str
    model: type[BaseModel]
    bookkeeping: AbstractSet[str]
    refused: Mapping[str, tuple[Any, ...]]
    instead: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, Foreign] = field(default_factory=dict)

    @cached_property
    def defined(self) -> DefinedNames:
        """The names that a body may have."""
        others = frozenset({*self.refused, *self.bookkeeping})
        return DefinedNames(frozenset(self.implemented), self.foreign, others)

    @cached_property
    def scalars(self) -> AbstractSet[str]:
        """The implemented fields that never have a list or an object."""
        fields = self.model.model_fields
        return {name for name, info in fields.items() if _is_scalar(info.annotation)}

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
    """The implemented fields of a request body, under their own names, and the names of the ignored ones.

    Args:
        body: The whole body.
        table: The endpoint's fields.
        ignore_unknown: Ignore fields that are not in the table instead of refusing them.

    Raises:
        UnsupportedParameterError: For the first field that is not implemented and not neutral, and for
            one that is probably misspelt.
        InvalidRequestError: Two names of one field have different values.
    """
    try:
        kept, ignored = known_members(
            _others(body, table), table.defined, Speller(), ignore_unknown=ignore_unknown
        )
    except RefusedMemberError as error:
        raise refusal(error, shown_name(error.name)) from None
    given = {name: value for name, value in kept.items() if not _is_left_out(name, value, table)}
    return given, tuple(map(shown_name, ignored))


def _is_left_out(name: str, value: Any, table: FieldTable) -> bool:  # noqa: ANN401  (any JSON value)
    """Whether an optional field has an empty value that some clients send for null."""
    if name in _PROMPTS or table.model.model_fields[name].is_required():
        return False
    return value == "" or (value in ([], {}) and name not in table.scalars)


def _is_scalar(annotation: Any) -> bool:  # noqa: ANN401  (a type, as of `FieldInfo`)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _is_scalar(parts[0])
    if origin in (Union, UnionType):
        return all(map(_is_scalar, parts))
    return origin is Literal or annotation in (int, float, bool, str, NoneType)


def refusal(error: RefusedMemberError, path: str) -> InvalidRequestError:
    """The error of this server for a member that is refused.

    Args:
        error: Says why.
        path: The member's JSON path.
    """
    message = error.reason.format(path)
    if error.is_conflict:
        return InvalidRequestError(message, param=path)
    return UnsupportedParameterError(message, param=path, code=error.code)


def _others(body: Mapping[str, Any], table: FieldTable) -> Iterator[tuple[str, Any]]:
    """The fields that are neither bookkeeping nor refused by the table."""
    for name, value in body.items():
        if name in table.refused:
            _refuse(name, value, table)
        elif name not in table.bookkeeping:
            yield name, value


def _refuse(name: str, value: Any, table: FieldTable) -> None:  # noqa: ANN401  (any JSON value)
    neutral = (None, "", [], *table.refused[name])
    if any(is_same(value, one) for one in neutral):
        return
    instead = table.instead.get(name, "Leave it out.")
    raise UnsupportedParameterError(
        f"'{name}' is not supported by this server. {instead}", param=name
    )
