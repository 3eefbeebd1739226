"""Bounds what all requests together may hold of something, and shares it fairly among clients.

What does not fit waits. Among the clients that wait, the one that was given least lately is next (start-time
fair queueing), and its own requests keep their order. A request is never overtaken because it is large, so
that it is never starved; only clients that hold their whole share are passed over. What holds something
already and waits for more comes first, because others may wait for what it holds.
"""

import asyncio
import itertools
import math
import random
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from internvl_server.concurrency.budget import Held
from internvl_server.concurrency.caller import Clients, current_caller
from internvl_server.errors import EngineOverloadedError

__all__ = ["Amounts", "Share", "SharedBudget"]

Amounts: TypeAlias = tuple[int, ...]

_MAX_RETRY_S = 30
_NUM_RELEASES = 64


@dataclass(eq=False, slots=True)
class _Waiter:
    share: "Share"
    amounts: Amounts
    cost: float
    number: int
    is_granted: bool = False
    turn: "asyncio.Future[None] | None" = None


class SharedBudget:
    """Amounts of one or several kinds that can be reserved and released. For use on one event loop.

    An amount over the limit is taken as the limit: it is granted while nothing else is reserved.

    Args:
        limits: The most that may be reserved of each kind at once.
        refusal: The message to a request that cannot have its amounts.
        wait_s: How long a reservation may wait.
        clients: Says which part of the limits a client may hold; None for all of it.
    """

    def __init__(
        self,
        *limits: int,
        refusal: str,
        wait_s: float = math.inf,
        clients: Clients | None = None,
    ) -> None:
        self.limits = limits
        self.wait_s = wait_s
        self._refusal = refusal
        self._clients = clients or Clients()
        self._nothing = (0,) * len(limits)
        self._held: dict[str, Amounts] = {}
        self._queues: defaultdict[str, deque[_Waiter]] = defaultdict(deque)
        self._numbers = itertools.count()
        # Virtual time: what has been given to a client whose turn is now, and to each client.
        self._now = 0.0
        self._given: dict[str, float] = {}
        self._releases: deque[float] = deque(maxlen=_NUM_RELEASES)
        self._busy_since = 0.0
        self._num_holding = 0
        self.in_use = self._nothing

    @property
    def num_waiting(self) -> int:
        """Reservations that wait."""
        return sum(map(len, self._queues.values()))

    def reserve_now(self, *amounts: int, cost: float = 1.0) -> "Share":
        """Reserve amounts for the current caller, until they are released.

        Raises:
            EngineOverloadedError: They do not fit now, or others wait for theirs.
        """
        share = Share(self)
        waiter = self._enqueue(share, amounts, cost)
        if not waiter.is_granted:
            self._remove(waiter)
            raise self.refused()
        return share

    async def reserve(self, *amounts: int, cost: float = 1.0) -> "Share":
        """Reserve amounts, and wait for them if necessary.

        Args:
            amounts: One of each kind.
            cost: What they count when clients take turns, in any unit.

        Raises:
            EngineOverloadedError: They did not become free in time.
        """
        share = Share(self)
        await self.enlarge(share, amounts, cost)
        return share

    async def enlarge(self, share: "Share", amounts: Amounts, cost: float = 1.0) -> None:
        """Replace what a share has by larger amounts. It keeps what it has until then.

        Raises:
            EngineOverloadedError: As `reserve`.
        """
        waiter = self._enqueue(share, amounts, cost)
        if waiter.is_granted:
            return
        loop = asyncio.get_running_loop()
        waiter.turn = loop.create_future()
        timer = None
        if self.wait_s < math.inf:
            timer = loop.call_later(self.wait_s, self._expire, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            self._remove(waiter)
            share.release()  # it may have been granted meanwhile
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def exchange(self, share: "Share", amounts: Amounts) -> None:
        """Replace what a share has by amounts, at once; shares call it.

        Raises:
            EngineOverloadedError: Larger amounts do not fit; nothing has changed then.
        """
        amounts = self._clipped(amounts)
        if any(map(int.__gt__, amounts, share.amounts)) and not self._fits(share, amounts):
            raise self.refused()
        is_smaller = any(map(int.__lt__, amounts, share.amounts))
        if is_smaller and not any(amounts):
            if self._queues or any(map(int.__ge__, self.in_use, self.limits)):
                self._releases.append(time.monotonic())
            else:  # how often it happens while there is room does not say how long others would wait
                self._releases.clear()
        self._set(share, amounts)
        if is_smaller:
            self._grant_next()

    def refused(self) -> EngineOverloadedError:
        """The error for a request that must come again later, with the seconds after which it should."""
        wait_s = self.interval_s * (self.num_waiting + 1)
        retry_after_s = math.ceil(1 + wait_s * random.uniform(1, 1.5))  # noqa: S311 - not a secret
        return EngineOverloadedError(self._refusal, retry_after_s=min(retry_after_s, _MAX_RETRY_S))

    @property
    def interval_s(self) -> float:
        """Seconds between two releases while there was no room; 0 while nothing is known."""
        if not self._num_holding:
            return 0.0
        if not self._releases:  # none of those that hold something has taken less than this time
            return (time.monotonic() - self._busy_since) / self._num_holding
        return (time.monotonic() - self._releases[0]) / len(self._releases)

    def _clipped(self, amounts: Sequence[int]) -> Amounts:
        return tuple(map(min, amounts, self.limits))

    def _enqueue(self, share: "Share", amounts: Sequence[int], cost: float) -> _Waiter:
        waiter = _Waiter(share, self._clipped(amounts), cost, next(self._numbers))
        if not self._queues and self._is_possible(waiter):  # nearly always
            self._grant(waiter)
            return waiter
        queue = self._queues[share.client]
        num_before = sum(any(w.share.amounts) for w in queue) if any(share.amounts) else len(queue)
        queue.insert(num_before, waiter)
        self._grant_next()
        return waiter

    def _remove(self, waiter: _Waiter) -> None:
        """Remove one that may wait, and grant what it has held up."""
        client = waiter.share.client
        if waiter in self._queues.get(client, ()):
            self._queues[client].remove(waiter)
            if not self._queues[client]:
                del self._queues[client]
            self._grant_next()

    def _expire(self, waiter: _Waiter) -> None:
        if waiter.turn is not None and not waiter.turn.done():
            waiter.turn.set_exception(self.refused())
        self._remove(waiter)

    def _grant_next(self) -> None:
        while self._queues and (waiter := self._next()) is not None:
            client = waiter.share.client
            self._queues[client].popleft()
            if not self._queues[client]:
                del self._queues[client]
            self._grant(waiter)

    def _grant(self, waiter: _Waiter) -> None:
        client = waiter.share.client
        self._now = self._start(client)
        self._given[client] = self._now + waiter.cost
        self._set(waiter.share, waiter.amounts)
        waiter.is_granted = True
        if waiter.turn is not None and not waiter.turn.done():
            waiter.turn.set_result(None)

    def _is_possible(self, waiter: _Waiter) -> bool:
        share, amounts = waiter.share, waiter.amounts
        return self._is_within_share(share, amounts) and self._fits(share, amounts)

    def _next(self) -> _Waiter | None:
        heads = [queue[0] for queue in self._queues.values()]
        if len(heads) > 1:
            heads.sort(
                key=lambda w: (not any(w.share.amounts), self._start(w.share.client), w.number)
            )
        for head in heads:
            if self._is_within_share(head.share, head.amounts):
                return head if self._fits(head.share, head.amounts) else None
        return None

    def _start(self, client: str) -> float:
        return max(self._now, self._given.get(client, 0.0))

    def _fits(self, share: "Share", amounts: Amounts) -> bool:
        """Whether all of the amounts that grow fit the limits."""
        return all(
            new <= old or used - old + new <= limit
            for used, old, new, limit in zip(
                self.in_use, share.amounts, amounts, self.limits, strict=True
            )
        )

    def _is_within_share(self, share: "Share", amounts: Amounts) -> bool:
        """Whether the client holds no more than its share then; it may always hold one reservation."""
        part = self._clients.share(share.caller)
        held = self._held.get(share.client, self._nothing)
        return part >= 1 or all(
            new <= old or held_ == old or held_ - old + new <= part * limit
            for held_, old, new, limit in zip(
                held, share.amounts, amounts, self.limits, strict=True
            )
        )

    def _set(self, share: "Share", amounts: Amounts) -> None:
        if not self._releases:
            self._busy_since = time.monotonic()
        difference = tuple(map(int.__sub__, amounts, share.amounts))
        self.in_use = tuple(map(int.__add__, self.in_use, difference))
        held = self._held.get(share.client, self._nothing)
        self._held[share.client] = tuple(map(int.__add__, held, difference))
        self._num_holding += any(amounts) - any(share.amounts)
        share.amounts = amounts
        if not any(self._held[share.client]):
            del self._held[share.client]
        if not self._held and not self._queues:
            self._now = 0.0
            self._given.clear()
            self._releases.clear()


class Share(Held):
    """What one request has reserved of a budget."""

    def __init__(self, budget: SharedBudget) -> None:
        self._budget = budget
        self.caller = current_caller.get()
        self.limits = budget.limits
        self.amounts: Amounts = (0,) * len(budget.limits)

    @property
    def client(self) -> str:
        """Name of the client that has it."""
        return self.caller.client

    def resize(self, *amounts: int) -> None:
        """Change what is reserved, at once.

        Raises:
            EngineOverloadedError: Larger amounts do not fit; the old ones stay reserved.
        """
        if amounts != self.amounts:
            self._budget.exchange(self, amounts)

    async def enlarge(self, *amounts: int) -> None:
        """Reserve more, and wait for it if necessary.

        Raises:
            EngineOverloadedError: It did not become free in time; the old amounts stay reserved.
        """
        await self._budget.enlarge(self, amounts)

    def release(self) -> None:
        """Give everything back. Idempotent."""
        self.resize(*((0,) * len(self.amounts)))
