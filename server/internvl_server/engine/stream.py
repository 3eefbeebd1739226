"""The reader's side of one request: its tokens, pushed or pulled, and the way to abort it."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from internvl_server.core import FinishReason, TokenDelta, TokenLogprobs
from internvl_server.errors import ServerError

__all__ = ["Abort", "Sink", "Stream"]

Abort: TypeAlias = Callable[[], None]

# Log probabilities of twenty tokens at each position take some 0.2 ms a token on their way to the client.
_MAX_LOGPROBS = 32


class Sink(Protocol):
    """Takes the tokens of one request as plain calls on the event loop, in which no task is woken."""

    def put(self, delta: TokenDelta) -> None:
        """Take new tokens; the last delta has a `finish_reason`. Must not raise."""

    def fail(self, error: ServerError) -> None:
        """Take the error that ended the request. Must not raise."""


class Stream:
    """A context manager for one request; see `Engine.generate`.

    Its tokens are pushed to a sink from `attach` to `detach`. Without a sink they gather, and are handed over
    in one delta: to the next sink, or to the reader that iterates over the stream. Many log probabilities are
    pushed in several, between which the loop serves others. Iteration ends after a delta with a
    `finish_reason`, or with the error passed to `fail`; never silently.

    Not thread-safe: an engine with its own thread hands its tokens over with `call_soon_threadsafe`, once a
    step for all streams.

    Args:
        enter: Accepts the request, or refuses it by raising; returns the function that aborts it, which does
            nothing after the request's end.
    """

    __slots__ = (
        "_abort", "_enter", "_error", "_finish_reason", "_has_ended", "_logprobs", "_next_push",
        "_num_cached_tokens", "_reader", "_sink", "_token_ids",
    )  # fmt: skip

    def __init__(self, enter: Callable[[Self], Awaitable[Abort]]) -> None:
        self._enter: Callable[[Self], Awaitable[Abort]] | None = enter
        self._abort: Abort | None = None
        self._sink: Sink | None = None
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finish_reason: FinishReason | None = None
        self._num_cached_tokens = 0
        self._error: ServerError | None = None
        self._has_ended = False
        self._reader: asyncio.Future[None] | None = None  # while it waits
        self._next_push: asyncio.Handle | None = None

    async def __aenter__(self) -> Self:
        """Accept the request and queue it."""
        assert self._enter is not None, "a stream is entered once"
        # Dropped before the call, because it holds the request, whose pixels are freed once encoded.
        enter, self._enter = self._enter, None
        self._abort = await enter(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Abort the request unless it has ended. Does not wait for the engine to confirm it."""
        self.detach()
        self.abort()

    def abort(self) -> None:
        """End the request in the engine, if it has not ended. Idempotent."""
        abort, self._abort = self._abort, None
        if abort is not None:
            abort()

    def attach(self, sink: Sink) -> None:
        """Push to a sink from now on, first of all what has gathered."""
        self.detach()
        self._sink = sink
        self._push()

    def detach(self) -> None:
        """Gather from now on."""
        self._sink = None
        if self._next_push is not None:
            self._next_push.cancel()
            self._next_push = None

    def _push(self) -> None:
        self._next_push, sink = None, self._sink
        assert sink is not None, "it is cancelled when the sink is detached"
        if self._has_gathered:
            sink.put(self._take(_MAX_LOGPROBS))
        if self._sink is not sink:  # it has detached itself
            return
        if self._has_gathered:
            self._next_push = asyncio.get_running_loop().call_soon(self._push)
        elif self._error is not None:
            sink.fail(self._error)

    def put(self, new: TokenDelta) -> None:
        """Add new tokens; the last call has a `finish_reason`."""
        if new.finish_reason is not None:
            self._abort = None  # its reader leaves now, and there is nothing left to abort
        sink = self._sink if self._next_push is None else None
        if sink is not None and (new.logprobs is None or len(new.logprobs) <= _MAX_LOGPROBS):
            sink.put(new)
            return
        self._token_ids += new.token_ids
        self._logprobs += new.logprobs or ()
        self._finish_reason = new.finish_reason
        self._num_cached_tokens = new.num_cached_tokens
        self._wake()
        if sink is not None:
            self._push()

    def fail(self, error: ServerError) -> None:
        """End the stream with an error, raised after the tokens it already has. The first error counts."""
        if self._error is not None:
            return
        self._error, self._abort = error, None
        self._wake()
        if self._sink is not None and self._next_push is None:
            self._sink.fail(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._has_ended:
            raise StopAsyncIteration
        while not (self._has_gathered or self._error):
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._has_gathered:
            return self._take()
        assert self._error is not None
        self._has_ended = True
        raise self._error

    @property
    def _has_gathered(self) -> bool:
        return bool(self._token_ids) or self._finish_reason is not None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _take(self, most_logprobs: int = 0) -> TokenDelta:
        """What has gathered; of more log probabilities than the limit, if there is one, the first."""
        if 0 < most_logprobs < len(self._logprobs):
            first, last = slice(most_logprobs), slice(most_logprobs, None)
            ids, some = self._token_ids[first], tuple(self._logprobs[first])
            self._token_ids, self._logprobs = self._token_ids[last], self._logprobs[last]
            return TokenDelta(tuple(ids), None, some, self._num_cached_tokens)
        token_ids, self._token_ids = tuple(self._token_ids), []
        logprobs, self._logprobs = tuple(self._logprobs), []
        reason, self._finish_reason = self._finish_reason, None
        self._has_ended = reason is not None
        return TokenDelta(token_ids, reason, logprobs or None, self._num_cached_tokens)
