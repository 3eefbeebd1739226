"""What a connection queues and waits with, without the 0.7 kB that each empty queue of Python's takes."""

import asyncio
from typing import Any

__all__ = ["LazyEvent", "Pipeline"]


class LazyEvent:
    """An `asyncio.Event` that is made when somebody waits."""

    __slots__ = ("_event", "_is_set")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._event: asyncio.Event | None = None  # of those who wait

    def set(self) -> None:
        """Let all go on, those who come later as well."""
        self._is_set = True
        if self._event is not None:
            self._event.set()
            self._event = None

    def clear(self) -> None:
        """Let those who come from now on wait."""
        self._is_set = False

    async def wait(self) -> None:
        """Wait for `set`, unless it was called since the last `clear`."""
        if not self._is_set:
            self._event = self._event or asyncio.Event()
            await self._event.wait()


class Pipeline(list[Any]):
    """The requests that wait behind another: hardly ever any, and never many."""

    __slots__ = ()

    def appendleft(self, request: Any) -> None:  # noqa: ANN401  (uvicorn's)
        """Add one, which is popped last."""
        self.insert(0, request)
