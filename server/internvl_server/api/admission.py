"""How many requests are accepted at once. Refusing early and cheaply keeps the accepted ones fast."""

from collections.abc import Iterator
from contextlib import contextmanager

from internvl_server.errors import EngineOverloadedError, EngineUnavailableError

__all__ = ["AdmissionGate"]


class AdmissionGate:
    """Counts requests in flight, from before their body is read until their last byte is sent.

    `is_unready` is set by the first signal to stop: `/ready` says no, so that balancers look elsewhere, but
    who still comes is served. `is_draining` ends that: nobody new is admitted.

    Args:
        max_in_flight: Most requests at the same time.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.num_in_flight = 0
        self.is_unready = False
        self.is_draining = False

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place while the context lasts.

        Raises:
            EngineOverloadedError: All places are taken.
            EngineUnavailableError: The server is shutting down.
        """
        if self.is_draining:
            raise EngineUnavailableError("The server is shutting down. Try another replica.")
        if self.num_in_flight >= self._max_in_flight:
            raise EngineOverloadedError(
                f"The server is busy with {self.num_in_flight} requests. Try again shortly."
            )
        self.num_in_flight += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1
