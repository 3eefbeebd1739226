"""Ends a generation whose time is over, or whose engine gives no tokens any more; pings its client."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from internvl_server.concurrency.caller import current_caller
from internvl_server.errors import DeadlineError, ServerError

__all__ = ["Patience", "Watch"]

# The number of tokens is read so many times within a time limit: nothing is done for each token.
_NUM_CHECKS = 16


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for the engine's first token, and for each further one."""

    first_token_s: float
    next_token_s: float


class Watch:
    """Watches one generation from its creation until `stop`, with one timer.

    Args:
        patience: How long the engine may take.
        num_tokens: Called for the number of tokens so far; None while nobody takes them.
        fail: Called with the error that ends the generation.
        keep_alive: Called to show the client that it is answered, if that is due; returns after how many
            seconds it should be called again.
    """

    def __init__(
        self,
        patience: Patience,
        num_tokens: Callable[[], int | None],
        fail: Callable[[ServerError], None],
        keep_alive: Callable[[], float],
    ) -> None:
        self._patience = patience
        self._num_tokens = num_tokens
        self._fail = fail
        self._keep_alive = keep_alive
        self._last_number = 0
        self._last_change = time.monotonic()
        self._timer = self._call_later()

    def stop(self) -> None:
        """Watch no longer. Idempotent."""
        self._timer.cancel()

    def _call_later(self) -> asyncio.TimerHandle:
        check_s = min(self._patience.first_token_s, self._patience.next_token_s) / _NUM_CHECKS
        wait_s = min(check_s, self._keep_alive())
        deadline = self._deadline
        if deadline is not None:
            wait_s = min(wait_s, max(deadline - time.monotonic(), 0.0))
        return asyncio.get_running_loop().call_later(wait_s, self._check)

    @property
    def _deadline(self) -> float | None:
        return current_caller.get().deadline  # timers have the context in which they were made

    @property
    def _allowed_s(self) -> float:
        is_first = not self._last_number
        return self._patience.first_token_s if is_first else self._patience.next_token_s

    def _check(self) -> None:
        now = time.monotonic()
        number = self._num_tokens()
        if number != self._last_number:
            self._last_number = self._last_number if number is None else number
            self._last_change = now
        if self._deadline is not None and now >= self._deadline:
            self._fail(DeadlineError("The request was not answered in time."))
        elif now - self._last_change >= self._allowed_s:
            self._fail(DeadlineError(f"The engine gave no token for {self._allowed_s:g} s."))
        else:
            self._timer = self._call_later()
