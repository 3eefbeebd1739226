"""Whose request is being served, how long it may take, and which clients are active."""

import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Caller", "Clients", "current_caller"]

# A client counts as active for so long after its last request, or a client that sends one request at a time
# would be alone between two of them.
_ACTIVE_S = 10.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what for.

    Attributes:
        client: Name of the key.
        deadline: When the request must have ended, by `time.monotonic`; None for never.
        max_share: The part of each resource that the client may hold at any time; None if its key sets no
            limit.
    """

    client: str = "anonymous"
    deadline: float | None = None
    max_share: float | None = None


current_caller: ContextVar[Caller] = ContextVar("current_caller", default=Caller())  # noqa: B039 - frozen


class Clients:
    """Knows which clients have requests in flight, or had some lately. For use on one event loop.

    Args:
        max_share: The part of each resource that one client may hold while others are active.
    """

    def __init__(self, max_share: float = 1.0) -> None:
        self._max_share = max_share
        self._num_requests: Counter[str] = Counter()
        self._last_seen: dict[str, float] = {}

    def enter(self, client: str) -> None:
        """Begin a request."""
        self._num_requests[client] += 1
        self._last_seen.pop(client, None)

    def leave(self, client: str) -> None:
        """End a request."""
        self._num_requests[client] -= 1
        if not self._num_requests[client]:
            del self._num_requests[client]
            self._last_seen[client] = time.monotonic()

    def num_requests(self, client: str) -> int:
        """Requests of a client in flight."""
        return self._num_requests[client]

    def num_before(self, client: str) -> int:
        """Requests that would be served before a new one of a client, if clients take turns."""
        num_turns = self._num_requests[client] + 1
        num_of_others = sum(
            min(number, num_turns) for name, number in self._num_requests.items() if name != client
        )
        return num_turns - 1 + num_of_others

    def num_active(self, client: str) -> int:
        """Number of active clients, of which the given one counts as one."""
        self._forget()
        return len(self._num_requests.keys() | self._last_seen.keys() | {client})

    def share(self, caller: Caller) -> float:
        """The part of each resource that the client of a request may hold now."""
        if caller.max_share is not None:
            return caller.max_share
        return self._max_share if self.num_active(caller.client) > 1 else 1.0

    def _forget(self) -> None:
        too_old = time.monotonic() - _ACTIVE_S
        while self._last_seen:
            oldest = next(iter(self._last_seen))  # they are in the order of their times
            if self._last_seen[oldest] > too_old:
                return
            del self._last_seen[oldest]
