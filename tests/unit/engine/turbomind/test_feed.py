"""From the native thread to the loop: one wake-up for all news, and a failure stays with its request."""

import asyncio
import threading
from typing import Any

import pytest
from internvl_server.core import TokenDelta
from internvl_server.engine.turbomind.requests.feed import EngineHub, Feed


class Reader:
    """Counts its reads; the last one of three ends it."""

    is_slow = False

    def __init__(self, *, is_broken=False):
        self.num_read = 0
        self._is_broken = is_broken

    @property
    def has_ended(self):
        return self.num_read == 3

    def read(self):
        self.num_read += 1
        if self._is_broken:
            raise ZeroDivisionError
        return TokenDelta((self.num_read,), "stop" if self.has_ended else None)


def signal_all(feeds):
    """A pass of the engine: every request has news, some are signalled twice."""
    thread = threading.Thread(target=lambda: [feed.signal() for feed in (*feeds, feeds[0])])
    thread.start()
    thread.join()


@pytest.mark.parametrize("num_few", [0, 16])
async def test_a_pass_wakes_the_loop_once_and_a_failure_stops_no_other(monkeypatch, num_few):
    monkeypatch.setattr("internvl_server.engine.turbomind.requests.feed._NUM_FEW", num_few)
    wakes: list[bool] = []
    got: list[Any] = []
    failures: list[Exception] = []
    hub = EngineHub(lambda: wakes.append(True))
    feeds = [Feed(hub, got.append, failures.append) for _ in range(9)]
    readers = [Reader(is_broken=number == 4) for number in range(9)]
    tasks = [
        asyncio.create_task(feed.run(reader)) for feed, reader in zip(feeds, readers, strict=True)
    ]
    for _ in range(3):
        await asyncio.sleep(0.01)
        assert hub.num_running == 9
        signal_all(feeds)
    await asyncio.gather(*tasks)
    assert (len(wakes), hub.num_running) == (3, 0)
    assert [reader.num_read for reader in readers] == [3] * 9
    assert [delta.token_ids[0] for delta in got] == [1] * 8 + [2] * 8 + [3] * 8
    assert [type(error) for error in failures] == [ZeroDivisionError] * 3
    signal_all(feeds)  # nothing native is read after the end
    await asyncio.sleep(0.005)
    assert [reader.num_read for reader in readers] == [3] * 9
