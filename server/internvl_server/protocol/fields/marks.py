"""Marks of wire fields: what the documentation and the checks of an engine read."""

from dataclasses import dataclass

__all__ = ["Extension", "Needs"]


@dataclass(frozen=True, slots=True)
class Extension:
    """Marks a field that OpenAI's API does not have.

    `only_in` names the one API that does not have it; None means that none of OpenAI's APIs has it.
    """

    only_in: str | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """Marks a field that works only with engines that have a capability, given by its value."""

    capability: str
