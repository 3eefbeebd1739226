"""The asyncio side of one request: what the engine's thread found, handed to who waits for it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from internvl_server.core import FinishReason, TokenDelta, TokenLogprobs
from internvl_server.engine.cpu.scheduler import Sequence
from internvl_server.errors import ServerError

__all__ = ["Event", "Stream"]


@dataclass(frozen=True, slots=True)
class Event:
    """One token of a sequence, or the error that ended it."""

    sequence: Sequence
    token_id: int = -1
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None
    error: ServerError | None = None


class Stream:
    """A context manager that is its own iterator of deltas.

    A reader who is slower than the engine gets several tokens in one delta.

    Args:
        enter: Queues the request, or refuses it by raising; returns what aborts it.
    """

    def __init__(self, enter: Callable[[Self], Awaitable[Callable[[], None]]]) -> None:
        self._enter: Callable[[Self], Awaitable[Callable[[], None]]] | None = enter
        self._abort: Callable[[], None] | None = None
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finish_reason: FinishReason | None = None
        self._error: ServerError | None = None
        self._has_ended = False
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Queue the request."""
        assert self._enter is not None, "a stream is entered once"
        # Dropped before the call: it holds the request, whose pixels must not outlive their
        # encoding.
        enter, self._enter = self._enter, None
        self._abort = await enter(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Abort the request; nothing is left to abort of one that has ended."""
        if self._abort is not None:
            self._abort()

    def put(self, event: Event) -> None:
        """Take over an event of this stream's sequence; on the event loop."""
        if event.error is not None:
            self._error = event.error
        else:
            self._token_ids.append(event.token_id)
            self._finish_reason = event.finish_reason
            if event.logprobs is not None:
                self._logprobs.append(event.logprobs)
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._has_ended:
            raise StopAsyncIteration
        await self._news.wait()
        self._news.clear()
        if self._token_ids:
            # Tokens that arrived before an error are handed out first.
            token_ids, self._token_ids = tuple(self._token_ids), []
            logprobs, self._logprobs = tuple(self._logprobs) or None, []
            self._has_ended = self._finish_reason is not None
            if self._error is not None:
                self._news.set()
            return TokenDelta(token_ids, self._finish_reason, logprobs)
        assert self._error is not None
        self._has_ended = True
        raise self._error
