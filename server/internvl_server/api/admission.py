"""Limits the requests in flight. Refusing early and cheaply keeps the accepted ones fast."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

from fastapi import Request

from internvl_server.concurrency.budget import Held
from internvl_server.concurrency.caller import Caller, current_caller
from internvl_server.concurrency.sharing import Share
from internvl_server.errors import DeadlineError, InvalidRequestError, ShuttingDownError
from internvl_server.pipeline import Budgets
from internvl_server.settings.keys import KeyLimits

__all__ = ["Admission", "AdmissionGate", "GateState", "within_deadline"]

_TIMEOUT_HEADER = "x-request-timeout"
# So many requests may wait whatever the estimate is, or half as many as the engine computes.
_MIN_WAITING = 4


class GateState(Enum):
    """What the server does with new requests."""

    STARTING = auto()
    """`/ready` says no, and the engine refuses requests until it has started."""
    OPEN = auto()
    UNREADY = auto()
    """`/ready` says no, so that load balancers look elsewhere; requests that still arrive are served."""
    DRAINING = auto()
    """New requests are refused, and those in flight are being ended."""


class AdmissionGate:
    """Counts requests in flight, from before their body is read until their last byte is sent.

    Args:
        budgets: What requests may hold.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._limits = budgets.limits
        self.state = GateState.STARTING

    @property
    def num_in_flight(self) -> int:
        """Requests that were admitted and have not ended."""
        return self._budgets.requests.in_use[0]

    def admit(self, request: Request, *, to_engine: bool = False) -> "Admission":
        """Admit a request until its end, and make its client the current caller.

        `read_request` finds the admission in the request's state.

        Args:
            request: The HTTP request, whose body has not been read.
            to_engine: Whether it will need a place in the engine.

        Raises:
            EngineOverloadedError: There is no room, or the request would have to wait for too long.
            ShuttingDownError: The server takes no more requests.
            InvalidRequestError: The time that the client allows is not a positive number.
        """
        if self.state is GateState.DRAINING:
            raise ShuttingDownError
        self._budgets.check_memory()
        client: str = request.state.client
        of_key: KeyLimits = request.state.client_limits
        deadline = time.monotonic() + self._timeout_s(request)
        current_caller.set(Caller(client, deadline, of_key.share))
        num_requests = self._budgets.clients.num_requests(client)
        if of_key.max_in_flight is not None and num_requests >= of_key.max_in_flight:
            raise self._budgets.requests.refused()
        longest_s = min(self._limits.max_expected_wait_s, self._limits.queue_timeout_s)
        if to_engine and self._expected_wait_s(client) > longest_s:
            raise self._budgets.slots.refused()
        admission = Admission(self._budgets, self._budgets.requests.reserve_now(1))
        request.state.admission = admission
        return admission

    def _timeout_s(self, request: Request) -> float:
        longest = self._limits.request_timeout_s
        given = request.headers.get(_TIMEOUT_HEADER)
        if given is None:
            return longest
        try:
            timeout_s = float(given)
        except ValueError:
            timeout_s = math.nan
        if not timeout_s > 0:
            raise InvalidRequestError(
                f"The header '{_TIMEOUT_HEADER}' must be a positive number of seconds."
            )
        return min(timeout_s, longest)

    def _expected_wait_s(self, client: str) -> float:
        """How long a request of a client will wait for the engine at the pace of the last requests."""
        num_slots = self._budgets.num_slots
        num_waiting = self._budgets.clients.num_before(client) + 1 - num_slots
        if num_waiting <= max(_MIN_WAITING, num_slots // 2):
            return 0.0
        return num_waiting * self._budgets.slots.interval_s


class Admission(Held):
    """One admitted request. As a context manager it ends with it.

    Args:
        budgets: What requests may hold.
        place: Of the request among those in flight.
    """

    def __init__(self, budgets: Budgets, place: Share) -> None:
        self._budgets = budgets
        self._place = place
        self._body: Share | None = None
        budgets.clients.enter(place.client)

    async def reserve_body(self, num_bytes: int) -> None:
        """Reserve memory for the body, before it is read.

        Raises:
            EngineOverloadedError: It did not become free in time.
        """
        self._body = await self._budgets.bodies.reserve(num_bytes, cost=num_bytes)

    def grow_body(self, num_bytes: int) -> None:
        """Reserve so much for a body whose length was not known, without waiting.

        Bodies that waited while they hold memory could wait for each other.

        Raises:
            EngineOverloadedError: There is not so much.
        """
        if self._body is not None:
            self._body.resize(max(num_bytes, *self._body.amounts))

    def shrink_body(self, num_bytes: int) -> None:
        """Keep no more than the body has, of which nothing is left when that is 0."""
        if self._body is not None:
            self._body.resize(min(num_bytes, *self._body.amounts))

    def release(self) -> None:
        """Give everything back."""
        self.shrink_body(0)
        self._place.release()
        self._budgets.clients.leave(self._place.client)


@asynccontextmanager
async def within_deadline() -> AsyncIterator[None]:
    """Cancel what the current caller's request does when its time is over.

    Raises:
        DeadlineError: It was.
    """
    deadline = current_caller.get().deadline
    left_s = None if deadline is None else deadline - time.monotonic()
    try:
        async with asyncio.timeout(left_s) as timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineError("The request was not answered in time.") from None
