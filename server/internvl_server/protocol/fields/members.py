"""Sorts the members of one JSON object: those it defines, those of other servers, and unknown ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from internvl_server.protocol.fields.neutral import is_off, is_same, to_switch
from internvl_server.protocol.fields.suggestions import Speller

__all__ = ["DefinedNames", "Foreign", "RefusedMemberError", "known_members", "shown_name"]

# Names shorter than this are suggested only if they are fields that are implemented.
_MIN_SUGGESTED_CHARS = 6
_MAX_SHOWN_CHARS = 64


@dataclass(frozen=True, slots=True)
class Foreign:
    """A field of another server.

    It is another name of a field (`to`), or not implemented (`instead` says what to use instead), or, with
    neither, a hint that changes no answer and is ignored.

    Args:
        to: The field that it is another name of, with a dot before a member: `structured_outputs.json`.
        instead: What to use instead, as a sentence.
        neutral: Values with which the field has no effect; null is always one. If the field is not another
            name of one, so are false, 0, `"off"` and empty values.
        values: Pairs of a value of this field and the equivalent value of `to`. A field that has them is a
            boolean.
        not_neutral: Values that have an effect although they look neutral.
        is_known: Whether the field is one of this API, so that it is accepted where unknown ones are refused.
        is_switch: Whether `to` is a boolean, and the values are those of `to_switch`.
    """

    to: str = ""
    instead: str = ""
    neutral: tuple[Any, ...] = ()
    values: tuple[tuple[Any, Any], ...] = ()
    not_neutral: tuple[Any, ...] = ()
    is_switch: bool = False
    is_known: bool = False

    def value_of(self, value: Any) -> Any:  # noqa: ANN401  (any JSON value)
        """A value of this field as a value of the field that it is another name of."""
        if self.is_switch:
            return to_switch(value)
        return next((here for there, here in self.values if is_same(there, value)), value)

    def allows(self, value: Any) -> bool:  # noqa: ANN401  (any JSON value)
        """Whether the field may have a value that is not neutral."""
        return not self.values or any(is_same(there, value) for there, _ in self.values)

    def is_neutral(self, value: Any) -> bool:  # noqa: ANN401  (any JSON value)
        """Whether the field has no effect with this value."""
        if value is None or any(is_same(value, one) for one in self.neutral):
            return True
        if self.is_switch:
            return to_switch(value) is None
        if self.to or any(is_same(value, one) for one in self.not_neutral):
            return False
        return is_off(value)


@dataclass(frozen=True)
class DefinedNames:
    """The names that an object defines.

    Args:
        names: Its own members.
        foreign: Members that other servers define, by name; `a.b` is the member `b` of an object `a`.
        others: Further names that a misspelt one may stand for.
    """

    names: frozenset[str]
    foreign: Mapping[str, Foreign]
    others: frozenset[str] = frozenset()

    @cached_property
    def groups(self) -> frozenset[str]:
        """The objects whose members are defined as foreign ones."""
        found: set[str] = set()
        for name in self.foreign:
            while "." in name:
                name = name.rpartition(".")[0]
                found.add(name)
        return frozenset(found)

    @cached_property
    def suggested(self) -> frozenset[str]:
        """The names that a misspelt one may stand for."""
        foreign = {name for name, field in self.foreign.items() if field.to or field.instead}
        further = foreign | self.groups | self.others
        return self.names | {name for name in further if len(name) >= _MIN_SUGGESTED_CHARS}


class RefusedMemberError(Exception):
    """A member of an object is refused.

    Args:
        name: The member, with a dot between an object and its member.
        reason: Why, as sentences; `{}` stands for the member's path.
        code: The error's code; None for its class's own.
        is_conflict: Whether it contradicts another member, rather than being unsupported.
    """

    def __init__(
        self, name: str, reason: str, *, code: str | None = None, is_conflict: bool = False
    ) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
        self.code = code
        self.is_conflict = is_conflict


def known_members(
    members: Iterable[tuple[str, Any]],
    defined: DefinedNames,
    speller: Speller,
    *,
    ignore_unknown: bool,
) -> tuple[dict[str, Any], list[str]]:
    """The members under the names that the object defines, and the names of the ignored ones.

    Args:
        members: Names and values. An object among the values gets the members that stand beside it.
        defined: What the object defines.
        speller: The request's own.
        ignore_unknown: Ignore unknown members instead of refusing them.

    Raises:
        RefusedMemberError: For the first member that is refused.
    """
    sorter = _Sorter(defined, speller, ignore_unknown=ignore_unknown)
    for name, value in members:
        sorter.add(name, value)
    return sorter.merged(), sorter.ignored


class _Sorter:
    def __init__(self, defined: DefinedNames, speller: Speller, *, ignore_unknown: bool) -> None:
        self._defined = defined
        self._speller = speller
        self._ignore_unknown = ignore_unknown
        self._kept: dict[str, Any] = {}
        self._renamed: list[tuple[str, Foreign, Any]] = []
        self.ignored: list[str] = []

    def add(self, name: str, value: Any) -> None:  # noqa: ANN401  (any JSON value)
        if name in self._defined.names:
            self._kept[name] = value
        elif "." in name:
            self._add_unknown(name, value, ())
        else:
            self._add_other(name, value, self._defined.suggested)

    def _add_group(self, group: str, value: Any) -> None:  # noqa: ANN401  (any JSON value)
        if not isinstance(value, dict):
            if not is_off(value):
                raise RefusedMemberError(group, "'{}' must be an object.", code="invalid_value")
            return
        for name, member in value.items():
            self._add_other(f"{group}.{name}", member, ())

    def _add_other(self, name: str, value: Any, suggested: Iterable[str]) -> None:  # noqa: ANN401
        foreign = self._defined.foreign.get(name)
        if name in self._defined.groups and (self._ignore_unknown or value is not None):
            self._add_group(name, value)
        elif foreign is None:
            self._add_unknown(name, value, suggested)
        elif foreign.to:
            self._renamed.append((name, foreign, value))
        elif not self._ignore_unknown and not foreign.is_known:
            raise _unknown(name, "")
        elif not foreign.is_neutral(value):
            if foreign.instead:
                raise RefusedMemberError(
                    name, f"'{{}}' is not supported by this server. {foreign.instead}"
                )
            self.ignored.append(name)

    def _add_unknown(self, name: str, value: Any, suggested: Iterable[str]) -> None:  # noqa: ANN401
        is_empty = value is None or (isinstance(value, str | list | dict) and not value)
        meant = None if is_empty else self._speller.suggest(name, suggested)
        if meant or not self._ignore_unknown:
            raise _unknown(name, f" Did you mean '{meant}'?" if meant else "")
        self.ignored.append(name)

    def merged(self) -> dict[str, Any]:
        """The members, those of other names under their own."""
        for name, foreign, value in self._renamed:
            if not foreign.is_neutral(value):
                if not foreign.allows(value):
                    reason = "Invalid value for '{}': it must be true or false."
                    raise RefusedMemberError(name, reason, code="invalid_value")
                self._merge(name, foreign.to, foreign.value_of(value))
        return self._kept

    def _merge(self, name: str, target: str, value: Any) -> None:  # noqa: ANN401  (any JSON value)
        holder, (outer, _, inner) = self._kept, target.partition(".")
        if inner:
            if holder.get(outer) is None:
                holder[outer] = {}
            holder = holder[outer]
            if not isinstance(holder, dict):
                return  # left to the validator, which refuses it
        own = holder.get(inner or outer)
        if own is not None and not is_same(own, value):
            reason = f"'{{}}' and '{target}' differ. Give one of them."
            raise RefusedMemberError(name, reason, is_conflict=True)
        holder[inner or outer] = value


def _unknown(name: str, hint: str) -> RefusedMemberError:
    hint = hint or " It is neither a field of the API nor an extension of this server."
    return RefusedMemberError(name, "Unknown parameter: '{}'." + hint, code="unknown_parameter")


def shown_name(name: str) -> str:
    """A name that the client chose, shortened for messages and headers."""
    return name if len(name) <= _MAX_SHOWN_CHARS else f"{name[:_MAX_SHOWN_CHARS]}…"
