"""Limits the requests in flight. Refusing early and cheaply keeps the accepted ones fast."""

from enum import Enum, auto

from internvl_server.concurrency.budget import Budget, Permit
from internvl_server.errors import EngineOverloadedError, ShuttingDownError

__all__ = ["AdmissionGate", "GateState"]


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
        max_in_flight: Most requests at the same time.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._budget = Budget(max_in_flight, _overloaded)
        self.state = GateState.STARTING

    @property
    def num_in_flight(self) -> int:
        """Requests that hold a permit."""
        return self._budget.in_use

    def admit(self) -> Permit:
        """Admit a request, until its permit is released.

        Raises:
            EngineOverloadedError: Too many requests are in flight.
            ShuttingDownError: The server takes no more requests.
        """
        if self.state is GateState.DRAINING:
            raise ShuttingDownError
        return self._budget.reserve()


def _overloaded(num_in_flight: int) -> EngineOverloadedError:
    return EngineOverloadedError(
        f"Too many requests are in flight ({num_in_flight}). Retry shortly."
    )
