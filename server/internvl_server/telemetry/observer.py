"""What is told about requests, to whatever keeps figures of them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from internvl_server.telemetry.record import RequestRecord

__all__ = ["Observer", "Observers"]

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Keeps figures of requests, or sends them elsewhere. Called on the event loop, so it must be quick."""

    def request_began(self, record: RequestRecord, path: str, headers: Mapping[str, str]) -> None:
        """Take the record of a request that has arrived, its path and its headers."""

    def request_ended(self, record: RequestRecord) -> None:
        """Take the record of a request that has ended, whatever its end was."""

    def loop_lagged(self, seconds: float) -> None:
        """Take by how much a timer of the event loop was late."""

    def close(self) -> None:
        """Send what has not been sent, and end. Idempotent."""


class Observers:
    """Several observers as one, of which no failure disturbs a request or the watch over the engine.

    Args:
        observers: The observers.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def request_began(self, record: RequestRecord, path: str, headers: Mapping[str, str]) -> None:
        """See `Observer`."""
        self._tell_all(lambda observer: observer.request_began(record, path, headers))

    def request_ended(self, record: RequestRecord) -> None:
        """See `Observer`."""
        self._tell_all(lambda observer: observer.request_ended(record))

    def _tell_all(self, tell: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:  # noqa: BLE001  (a defect of an observer must not become one of a request)
                _log.exception("an observer failed")

    def loop_lagged(self, seconds: float) -> None:
        """See `Observer`."""
        self._tell_all(lambda observer: observer.loop_lagged(seconds))

    def close(self) -> None:
        """See `Observer`."""
        self._tell_all(lambda observer: observer.close())
