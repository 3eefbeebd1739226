"""Sends prompts in an open loop, by a schedule, or in a closed loop, by so many clients."""

import asyncio
import contextlib
import gc
import itertools
import math
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from internvl_server.bench.arrivals import schedule
from internvl_server.bench.datasets.base import Prompt
from internvl_server.bench.measures import Record
from internvl_server.bench.strain import Strain

__all__ = ["Load", "Run", "Send", "run_load"]

Send = Callable[[Prompt, Record], Awaitable[None]]


@dataclass(frozen=True)
class Load:
    """How prompts are sent.

    With a finite `rate`, or without `max_concurrency`, the loop is open: requests have times to be sent at,
    whatever the server does. Otherwise it is closed: `max_concurrency` clients send the next request when the
    last has been answered.

    Attributes:
        rate: Requests a second; infinity sends all at once, or as fast as clients get answers.
        burstiness: Shape of the distribution of intervals; see `schedule`.
        max_concurrency: Most requests in flight. In an open loop requests wait for it in the client, and that
            wait is part of their latency.
        duration_s: No request is due after so many seconds.
        seed: Of the schedule.
    """

    rate: float = math.inf
    burstiness: float = 1.0
    max_concurrency: int | None = None
    duration_s: float = math.inf
    seed: int = 0

    @property
    def is_open(self) -> bool:
        """Whether requests have times to be sent at."""
        return not (math.isinf(self.rate) and self.max_concurrency)


@dataclass
class Run:
    """What came of a load: every request that was due, and whether a signal ended it early."""

    records: list[Record] = field(default_factory=list)
    started_s: float = 0.0
    duration_s: float = 0.0
    strain: dict[str, Any] = field(default_factory=dict)
    is_interrupted: bool = False


async def run_load(
    send: Send,
    prompts: Sequence[Prompt],
    load: Load,
    *,
    on_end: Callable[[], object] = lambda: None,
) -> Run:
    """Send prompts. SIGINT and SIGTERM end the run: what is in flight is aborted, the rest is kept.

    Args:
        send: Sends one prompt and fills in its record; must not raise.
        prompts: A closed loop that has a duration repeats them.
        load: When.
        on_end: Called when a request has ended.
    """
    run = Run()
    sender = _Sender(send, load, run, on_end)
    task = asyncio.ensure_future(sender.run(prompts))
    with (
        Strain() as strain,
        _quiet_collector(),
        _stopped_by_signals(task, run),
        contextlib.suppress(asyncio.CancelledError),
    ):
        await task
    run.duration_s = time.perf_counter() - run.started_s
    run.strain = strain.figures(run.records, is_open=load.is_open)
    return run


class _Sender:
    def __init__(self, send: Send, load: Load, run: Run, on_end: Callable[[], object]) -> None:
        self._send, self._load, self._run, self._on_end = send, load, run, on_end
        self._places = asyncio.Semaphore(load.max_concurrency or 2**31)

    async def run(self, prompts: Sequence[Prompt]) -> None:
        self._run.started_s = time.perf_counter()
        if self._load.is_open:
            await self._open(prompts)
        else:
            await self._closed(prompts)

    async def _open(self, prompts: Sequence[Prompt]) -> None:
        load = self._load
        due = schedule(len(prompts), load.rate, burstiness=load.burstiness, seed=load.seed)
        async with asyncio.TaskGroup() as group:
            for prompt, offset_s in zip(prompts, due, strict=True):
                if offset_s > load.duration_s:
                    return
                moment = self._run.started_s + offset_s
                if (wait_s := moment - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)
                group.create_task(self._request(prompt, self._new(moment)))

    async def _closed(self, prompts: Sequence[Prompt]) -> None:
        is_endless = not math.isinf(self._load.duration_s)
        waiting = itertools.cycle(prompts) if is_endless else iter(prompts)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._load.max_concurrency or 1):
                group.create_task(self._client(waiting))

    async def _client(self, waiting: Iterator[Prompt]) -> None:
        end = self._run.started_s + self._load.duration_s
        while (now := time.perf_counter()) < end:
            prompt = next(waiting, None)
            if prompt is None:
                return
            await self._request(prompt, self._new(now))

    def _new(self, moment: float) -> Record:
        record = Record(intended_s=moment, sent_s=0.0)
        self._run.records.append(record)
        return record

    async def _request(self, prompt: Prompt, record: Record) -> None:
        async with self._places:
            await self._send(prompt, record)
        if not self._load.is_open:  # a closed loop's request is due when it is sent
            record.intended_s = record.sent_s
        self._on_end()


@contextlib.contextmanager
def _stopped_by_signals(task: "asyncio.Future[None]", run: Run) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        run.is_interrupted = True
        task.cancel()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        yield
        return
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """Prompts and modules are not visited by the garbage collector during the run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
