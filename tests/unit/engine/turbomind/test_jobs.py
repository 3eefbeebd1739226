"""Jobs on handles that fail: no reader waits forever, no slot is lost. No LMDeploy."""

import asyncio
import sys
import threading
from typing import Any

import pytest
from internvl_server.core import GenerateRequest, SamplingParams, TokenDelta
from internvl_server.engine.stream import Abort, Stream
from internvl_server.engine.turbomind.requests.jobs import Job, JobPool, Work
from internvl_server.errors import EngineError

REQUEST = GenerateRequest("r", (1,), 4, SamplingParams(), frozenset({9}))


class Reader:
    """Reads the news it was made with: tokens, an exception, or None."""

    is_slow = False

    def __init__(self, news):
        self._news = list(news)
        self.has_ended = False
        self.was_read = threading.Event()

    def read(self):
        new = self._news.pop(0)
        self.has_ended = not self._news
        self.was_read.set()
        if isinstance(new, Exception):
            raise new
        return new


class Handle:
    """Signals each piece of news on a thread, as TurboMind does; may wait before one of them."""

    def __init__(self, *news, is_reusable=True, num_before_wait=None):
        self._all = news
        self._num_before_wait = num_before_wait
        self.may_go_on = threading.Event()
        self.is_reusable = is_reusable
        self.num_cancelled = 0

    def start(self, request, images, grammar, signal):
        if isinstance(self._all[0], Exception):
            raise self._all[0]

        def run() -> None:
            for number in range(len(self._all)):
                if number == self._num_before_wait:
                    self.may_go_on.wait()
                signal()  # signals are joined while the loop is late, and this reader has one piece each
                reader.was_read.wait(10)
                reader.was_read.clear()

        reader = Reader(self._all)
        threading.Thread(target=run).start()
        return reader

    def cancel(self):
        self.num_cancelled += 1


def pool_of(new_handle: Any) -> JobPool:
    return JobPool(1, new_handle)


LAST = TokenDelta((9,), "stop")


async def read(pool):
    async def enter(stream):
        job = pool.submit(stream, Work(REQUEST, None, None))
        return lambda: pool.abort(job)

    try:
        async with asyncio.timeout(60), Stream(enter) as stream:
            return [delta async for delta in stream]
    finally:
        await asyncio.sleep(0.05)  # the job ends after its reader


async def test_an_end_without_a_reason_is_an_error():
    pool = pool_of(lambda: Handle(TokenDelta((1,)), None))
    for _ in range(2):
        with pytest.raises(EngineError, match="without a reason"):
            await read(pool)
    assert (pool.num_free, pool.num_running, pool.num_waiting) == (1, 0, 0)


async def test_a_failing_handle_fails_its_request_alone():
    pool = pool_of(lambda: Handle(RuntimeError("native")))
    for _ in range(2):
        with pytest.raises(EngineError, match="The engine failed"):
            await read(pool)
    assert pool.num_free == 1


async def test_a_handle_is_in_use_until_the_end_even_if_reading_fails():
    news = (TokenDelta((1,)), RuntimeError("native"), TokenDelta((2,)), LAST)
    handle = Handle(*news, num_before_wait=2)
    pool = pool_of(lambda: handle)

    async def enter(stream):
        job = pool.submit(stream, Work(REQUEST, None, None))
        return lambda: pool.abort(job)

    try:
        async with asyncio.timeout(60), Stream(enter) as stream:
            assert await anext(stream) == TokenDelta((1,))
            with pytest.raises(EngineError, match="The engine failed"):
                await anext(stream)
            assert (handle.num_cancelled, pool.num_running, pool.num_free) == (1, 1, 0)
            handle.may_go_on.set()
            while pool.num_running:
                await asyncio.sleep(0.005)
            assert (handle.num_cancelled, pool.num_free) == (1, 1)
    finally:
        handle.may_go_on.set()  # otherwise a failed test would wait for it


async def test_a_handle_that_cannot_be_replaced_fails_one_request():
    made = iter(
        [
            Handle(LAST, is_reusable=False),
            RuntimeError("no native object"),
            Handle(LAST),
        ]
    )

    def new_handle():
        handle = next(made)
        if isinstance(handle, Exception):
            raise handle
        return handle

    pool = pool_of(new_handle)
    assert [delta.finish_reason for delta in await read(pool)] == ["stop"]
    assert (pool.can_make_handles, pool.silence_s) == (True, 0)
    with pytest.raises(EngineError, match="The engine failed"):
        await read(pool)
    assert not pool.can_make_handles
    assert pool.silence_s > 0, "it counts as a stall until it is repaired"
    pool.replace_handle()
    assert (pool.can_make_handles, pool.num_free, pool.silence_s) == (True, 1, 0)
    assert [delta.finish_reason for delta in await read(pool)] == ["stop"]
    assert (pool.num_free, pool.num_running, pool.num_waiting) == (1, 0, 0)


async def test_jobs_are_counted_on_another_thread_while_they_come_and_go(monkeypatch):
    pool = pool_of(lambda: Handle(LAST))
    monkeypatch.setattr(pool, "_slots", asyncio.Semaphore(0))  # all wait
    has_ended = threading.Event()

    async def enter(_: Stream) -> Abort:
        raise AssertionError("its reader does not come")

    def count() -> None:
        while not has_ended.is_set():
            assert pool.num_running == pool.num_unconfirmed == 0
            assert pool.num_waiting >= 0

    def submit() -> Job:
        return pool.submit(Stream(enter), Work(REQUEST, None, None))

    counting = asyncio.create_task(asyncio.to_thread(count))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    jobs = [submit() for _ in range(30)]
    try:
        for _ in range(100):
            for job in jobs:
                pool.abort(job)
            await asyncio.sleep(0)
            jobs = [submit() for _ in jobs]
            await asyncio.sleep(0)
    finally:
        sys.setswitchinterval(interval)
        has_ended.set()
        for job in jobs:
            pool.abort(job)
    await counting
