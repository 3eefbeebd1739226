"""From TurboMind's signalling thread to the event loop, which wakes once for all requests with news."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from internvl_server.core import TokenDelta
from internvl_server.errors import ServerError

if TYPE_CHECKING:
    from internvl_server.engine.turbomind.requests.outputs import OutputReader

__all__ = ["EngineHub", "Feed"]

# TurboMind calls the requests of a pass one by one, each time with the interpreter's lock. If there are many,
# the loop waits this long before it reads, because the two threads would mostly wait for each other.
_PASS_S = 0.001
_NUM_FEW = 16


class EngineHub:
    """Collects the requests with news until the event loop, on which it was made, reads them.

    Args:
        on_progress: Called on the loop before requests are read.
    """

    def __init__(self, on_progress: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_progress = on_progress
        self._ready: deque[Feed] = deque()
        self._is_woken = False
        self.num_running = 0

    def signal(self, feed: "Feed") -> None:
        """A request has news. Called on TurboMind's thread."""
        if feed.is_queued:
            return
        feed.is_queued = True
        self._ready.append(feed)
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # a process that ends without closing its engine
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self.num_running > _NUM_FEW:
            self._loop.call_later(_PASS_S, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        self._is_woken = False  # first: whatever is queued from now on wakes the loop again
        self._on_progress()
        for _ in range(len(self._ready)):
            feed = self._ready.popleft()
            feed.is_queued = False  # before it is read
            feed.advance()


class Feed:
    """Reads the news of one native request and passes them on.

    Args:
        hub: The engine's hub.
        take: Takes new tokens, or the error that ended the request.
        on_failure: Called with an exception of the reader. The request is then read to its end all the same,
            because its handle is in use until TurboMind has reported that.
    """

    __slots__ = (
        "_has_news", "_hub", "_on_failure", "_reader", "_take", "_waiter", "is_queued",
    )  # fmt: skip

    def __init__(
        self,
        hub: EngineHub,
        take: Callable[[TokenDelta | ServerError], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.is_queued = False
        self._hub, self._take, self._on_failure = hub, take, on_failure
        self._has_news = False
        self._waiter: asyncio.Future[None] | None = None
        self._reader: OutputReader

    def signal(self) -> None:
        """TurboMind's callback: there is a new state. Called on its thread, with the interpreter's lock."""
        self._hub.signal(self)

    async def run(self, reader: "OutputReader") -> None:
        """Pass everything on until TurboMind has reported the end, even if the task is cancelled.

        Call it without an await since the callback was given to TurboMind.
        """
        self._reader = reader
        self._hub.num_running += 1
        while not reader.has_ended:
            await self._wait_for_news()
            if reader.is_slow:
                await self._advance_slowly()
        self._hub.num_running -= 1

    def advance(self) -> None:
        """Read and pass on what is new; never raises. Only the end, and a slow reader, wake a task."""
        reader = self._reader
        if reader.has_ended:
            return
        if reader.is_slow:
            self._notify()
            return
        try:
            if (new := reader.read()) is not None:
                self._take(new)
        except Exception as error:  # noqa: BLE001  (concerns this request only)
            self._on_failure(error)
        if reader.has_ended:
            self._notify()

    def _notify(self) -> None:
        self._has_news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait_for_news(self) -> None:
        while not self._has_news:
            self._waiter = asyncio.get_running_loop().create_future()
            # Cancelled or not, the request uses its handle and memory until its end.
            with suppress(asyncio.CancelledError):
                await self._waiter
        self._has_news = False

    async def _advance_slowly(self) -> None:
        try:
            if (new := await asyncio.to_thread(self._reader.read)) is not None:
                self._take(new)
        except Exception as error:  # noqa: BLE001  (as above)
            self._on_failure(error)
