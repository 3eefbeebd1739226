"""What is measured: parts, each with the systems that run beside each other, and measurements of each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from scripts.load.rounds import Round

__all__ = ["Figures", "Measure", "Part", "System", "SystemKind"]

Figures: TypeAlias = dict[str, Any]


class System(Protocol):
    """A running server or pipeline."""

    name: str

    async def start(self) -> float: ...
    async def measure(self, bodies: list[bytes], clients: int) -> Round: ...
    async def stop(self) -> None: ...


@dataclass(frozen=True)
class SystemKind:
    """How to start a system. It has a `name` if its kind is also measured with other engine settings."""

    kind: str
    name: str = ""
    engine: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        return self.name or self.kind


@dataclass(frozen=True)
class Measure:
    """`run` gets a system, and a number from which its prompts and pictures are fresh."""

    name: str
    run: Callable[[Any, int], Awaitable[Figures]]


@dataclass(frozen=True)
class Part:
    """Its systems all run while each is measured in turn."""

    name: str
    systems: tuple[SystemKind, ...]
    measures: list[Measure]
