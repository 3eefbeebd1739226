"""Annotations of wire fields, which the documentation and the checks of an engine read."""

from dataclasses import dataclass

__all__ = ["Extension", "Needs"]


@dataclass(frozen=True, slots=True)
class Extension:
    """Marks a field that the published API does not have.

    `only_in` names the APIs that do not have it; empty means that none has it.
    """

    only_in: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """Marks a field that works only with engines that have a capability, given by its value."""

    capability: str
