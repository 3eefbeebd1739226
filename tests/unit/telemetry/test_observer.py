"""A defect of one observer is logged; it concerns neither the other observers nor whoever tells them."""

from collections.abc import Callable

import pytest
from internvl_server.telemetry.observer import Observer, Observers
from internvl_server.telemetry.record import RequestRecord

RECORD = RequestRecord("r")
EVENTS: dict[str, Callable[[Observer], None]] = {
    "request_began": lambda observer: observer.request_began(RECORD, "/", {}),
    "request_ended": lambda observer: observer.request_ended(RECORD),
    "loop_lagged": lambda observer: observer.loop_lagged(0.1),
    "close": lambda observer: observer.close(),
}


class Listener:
    """Writes down what it is told, and may fail then."""

    def __init__(self, *, fails: bool) -> None:
        self._fails = fails
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def hear(*_: object) -> None:
            self.heard.append(name)
            if self._fails:
                raise RuntimeError(name)

        return hear


@pytest.mark.parametrize("event", EVENTS)
def test_a_failing_observer_disturbs_nobody(event: str, caplog: pytest.LogCaptureFixture) -> None:
    listeners = [Listener(fails=True), Listener(fails=False)]
    EVENTS[event](Observers(listeners))
    assert [listener.heard for listener in listeners] == [[event]] * 2
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [event]
