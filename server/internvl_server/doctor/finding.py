"""What a check finds. This module imports nothing but the standard library."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from internvl_server.doctor.subject import Subject

__all__ = ["Check", "Finding", "InstallationCheck", "error", "ok", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: whether it is good, what was found, and what to do about it, as sentences."""

    level: Literal["ok", "warning", "error"]
    found: str
    remedy: str = ""


# The name of the function is that of the check. One that does not apply finds nothing.
InstallationCheck: TypeAlias = Callable[[], Iterator[Finding]]
Check: TypeAlias = Callable[["Subject"], Iterator[Finding]]


def ok(found: str) -> Finding:
    """A finding that is as it should be."""
    return Finding("ok", found)


def warning(found: str, remedy: str) -> Finding:
    """A finding with which the server starts, but works worse."""
    return Finding("warning", found, remedy)


def error(found: str, remedy: str) -> Finding:
    """A finding with which the server does not start, or does not work."""
    return Finding("error", found, remedy)
