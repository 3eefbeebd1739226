"""The unknown members of nested objects: found while a body is validated, located afterwards."""

from collections.abc import Iterator
from typing import Any

from internvl_server.protocol.fields.members import (
    DefinedNames,
    RefusedMemberError,
    known_members,
    shown_name,
)
from internvl_server.protocol.fields.suggestions import Speller
from internvl_server.protocol.fields.table import refusal

__all__ = ["NestedMembers"]


class NestedMembers:
    """Collects the ignored and refused members of all objects of one body.

    It is the context of the validators. They do not know where their object is in the body, so objects are
    remembered by identity and located later.

    Args:
        ignore_unknown: Ignore unknown members instead of refusing them.
    """

    def __init__(self, *, ignore_unknown: bool) -> None:
        self._ignore_unknown = ignore_unknown
        self._speller = Speller()
        self._seen: set[int] = set()
        self._ignored: dict[int, list[str]] = {}
        self._refused: dict[int, RefusedMemberError] = {}

    def known_members(self, value: dict[str, Any], defined: DefinedNames) -> dict[str, Any]:
        """The members that an object defines. An error about another member is raised by `ignored_paths`.

        Args:
            value: The object.
            defined: The names of its members.
        """
        self._seen.add(id(value))
        if value.keys() <= defined.names:
            return value
        try:
            kept, self._ignored[id(value)] = known_members(
                value.items(), defined, self._speller, ignore_unknown=self._ignore_unknown
            )
        except RefusedMemberError as error:
            self._refused[id(value)] = error
            return {name: member for name, member in value.items() if name in defined.names}
        return kept

    def ignored_paths(self, body: dict[str, Any]) -> tuple[str, ...]:
        """The JSON paths of the ignored members, in the order of the body, which must be valid.

        Raises:
            UnsupportedParameterError: For the first member that is refused.
            InvalidRequestError: Two names of one member have different values.
        """
        if not self._ignored and not self._refused:
            return ()
        ignored: list[str] = []
        for path, key in self._found(body):
            if error := self._refused.pop(key, None):
                raise refusal(error, _joined(path, error.name)) from None
            ignored += [_joined(path, name) for name in self._ignored.pop(key, ())]
        return tuple(ignored)

    def _found(self, body: dict[str, Any]) -> Iterator[tuple[str, int]]:
        """The paths and identities of the objects that were read."""
        yield from ((path, id(holder)) for path, holder in self._objects(body))
        # Validators make objects that are not in the body: their members have no path.
        yield from (("", key) for key in [*self._refused, *self._ignored])

    def _objects(self, body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects that were read, each with its JSON path; never the inside of free-form ones."""
        pending: list[tuple[str, Any]] = [("", body)]
        while pending:
            path, value = pending.pop()
            if isinstance(value, list):
                inner = [(f"{path}[{i}]", v) for i, v in enumerate(value) if _has_members(v)]
            elif id(value) in self._seen:
                yield path, value
                inner = [(_joined(path, name), v) for name, v in value.items() if _has_members(v)]
            else:
                continue
            pending += reversed(inner)


def _has_members(value: Any) -> bool:  # noqa: ANN401  (any JSON value)
    return isinstance(value, list | dict)


def _joined(path: str, name: str) -> str:
    return f"{path}.{shown_name(name)}" if path else shown_name(name)
