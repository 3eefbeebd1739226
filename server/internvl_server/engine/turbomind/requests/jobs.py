"""Runs accepted requests on native handles, in order of arrival.

Each job has its own task, separate from its reader's: a reader may leave at any await, but a native request
must be tracked until TurboMind has reported its end.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from internvl_server.core import GenerateRequest, TokenDelta
from internvl_server.engine.stream import Stream
from internvl_server.engine.turbomind.requests.feed import EngineHub, Feed
from internvl_server.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ServerError,
)

if TYPE_CHECKING:
    from internvl_server.engine.turbomind.requests.handle import Handle, Multimodal
    from internvl_server.engine.turbomind.requests.outputs import OutputReader

__all__ = ["Job", "JobPool", "Work"]

_log = logging.getLogger(__name__)

# TurboMind usually ends a cancelled request within one forward pass.
_CONFIRM_S = 10.0


@dataclass(slots=True)
class Work:
    """Input of the native side: the request without pixels, its images, its compiled grammar.

    They are None once the native side has them: an answer may take minutes.

    `reserve` is called with the number of tokens so far, and raises when there is no memory for more; None
    for a request that takes none.
    """

    request: GenerateRequest | None
    images: "Multimodal | None"
    grammar: object | None
    reserve: Callable[[int], None] | None = None

    def start(self, handle: "Handle", signal: Callable[[], None]) -> "OutputReader":
        """Begin the request; see `Handle.start`."""
        assert self.request is not None, "it is started once"
        reader = handle.start(self.request, self.images, self.grammar, signal)
        self.request = self.images = self.grammar = None
        return reader


class Job:
    """One accepted request. `handle` is set while it runs."""

    __slots__ = (
        "_is_over", "_stream", "cancelled_at", "handle", "is_reported", "num_tokens", "request_id", "task",
    )  # fmt: skip

    def __init__(self, request_id: str, stream: Stream) -> None:
        self.request_id = request_id
        self._stream = stream
        self._is_over = False
        self.num_tokens = 0
        self.handle: Handle | None = None
        self.cancelled_at: float | None = None  # by `time.monotonic`
        self.is_reported = False
        self.task: asyncio.Task[None]

    @property
    def is_unconfirmed(self) -> bool:
        """Whether TurboMind should have ended this request long ago."""
        if self.handle is None or self.cancelled_at is None:
            return False
        return time.monotonic() - self.cancelled_at > _CONFIRM_S

    def put(self, new: TokenDelta | ServerError) -> None:
        """Pass new tokens, or the end, to the reader."""
        if self._is_over:
            return
        if isinstance(new, ServerError):
            self.fail(new)
            return
        self.num_tokens += len(new.token_ids)
        self._is_over = new.finish_reason is not None
        self._stream.put(new)

    def fail(self, error: ServerError) -> None:
        """Fail the reader's stream; not with an error that invites a retry once it has tokens."""
        self._is_over = True
        is_retriable = isinstance(error, EngineOverloadedError | EngineUnavailableError)
        if is_retriable and self.num_tokens:
            error = EngineError(*error.args)
        self._stream.fail(error)

    def end(self) -> None:
        """The native side is done; fail a reader that still waits."""
        if not self._is_over:
            self.fail(EngineError("The engine ended the request without a reason."))


class JobPool:
    """A fixed number of native handles, assigned to jobs in order of arrival.

    The numbers of jobs may be read on any thread.

    Args:
        size: Number of handles.
        new_handle: Creates a handle.
    """

    def __init__(self, size: int, new_handle: Callable[[], "Handle"]) -> None:
        self._size, self._new_handle = size, new_handle
        self._handles = [new_handle() for _ in range(size)]
        self._slots = asyncio.Semaphore(size)  # wakes in order of arrival
        self._jobs: set[Job] = set()
        self._no_handle_since: float | None = None
        self._hub = EngineHub(self._note_progress)
        self.last_progress = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Seconds that requests have waited for progress, or that no request could be started."""
        since = [self.last_progress] if self._jobs else []
        if self.num_unconfirmed == self._size:
            since.append(max(job.cancelled_at or 0.0 for job in self._jobs))
        if self._no_handle_since is not None:
            since.append(self._no_handle_since)
        return time.monotonic() - min(since) if since else 0.0

    @property
    def can_make_handles(self) -> bool:
        """Whether TurboMind created the last handle that was needed."""
        return self._no_handle_since is None

    def replace_handle(self) -> None:
        """If a handle could not be created, try again."""
        if self._no_handle_since is not None:
            with suppress(Exception):  # logged when a request failed for it, and part of the health
                self._handles.append(self._make_handle())

    @property
    def num_free(self) -> int:
        """Unused handles that are ready for the next request."""
        return len(self._handles)

    @property
    def num_running(self) -> int:
        """Jobs with a handle, including those whose cancellation TurboMind has not confirmed yet."""
        return sum(job.handle is not None for job in tuple(self._jobs))

    @property
    def num_unconfirmed(self) -> int:
        """Jobs that were cancelled long ago and hold their handles still."""
        return sum(job.is_unconfirmed for job in tuple(self._jobs))

    def report_unconfirmed(self) -> None:
        """Log each of them once."""
        for job in self._jobs:
            if job.is_unconfirmed and not job.is_reported:
                job.is_reported = True
                _log.error(
                    "TurboMind has not ended request %s, cancelled %g s ago: its slot stays in use",
                    job.request_id,
                    _CONFIRM_S,
                )

    @property
    def num_waiting(self) -> int:
        """Jobs without a handle."""
        return len(self._jobs) - self.num_running

    def submit(self, stream: Stream, work: Work) -> Job:
        """Queue a request."""
        if not self._jobs:
            self.last_progress = time.monotonic()  # idle time is not a stall
        assert work.request is not None, "it has not been started"
        job = Job(work.request.request_id, stream)
        job.task = asyncio.create_task(self._run(job, work))
        self._jobs.add(job)
        job.task.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    async def settle(self) -> None:
        """Wait until all requests have ended, and replace the handles that could not be reused."""
        await asyncio.gather(*(job.task for job in self._jobs))
        self._handles += [self._new_handle() for _ in range(self._size - len(self._handles))]

    def abort(self, job: Job) -> None:
        """End a job whose reader has left, without waiting for the native side."""
        if job.task.done() or job.cancelled_at is not None:
            return
        job.cancelled_at = time.monotonic()
        if job.handle is None:
            job.task.cancel()
        else:
            job.handle.cancel()

    async def close(self, timeout_s: float) -> bool:
        """Fail and abort every job. Returns whether the native side has confirmed it in time."""
        jobs = tuple(self._jobs)
        for job in jobs:
            kind = EngineUnavailableError if job.handle is None else EngineError
            job.fail(kind("The engine was shut down."))
            self.abort(job)
        if jobs:
            await asyncio.wait([job.task for job in jobs], timeout=timeout_s)
        self._handles.clear()
        if unconfirmed := [job.request_id for job in jobs if not job.task.done()]:
            _log.error("TurboMind has not ended %d request(s): %s", len(unconfirmed), unconfirmed)
        return not unconfirmed

    async def _run(self, job: Job, work: Work) -> None:
        async with self._slots:
            try:
                job.handle = self._take_handle()
                await self._drive(job, job.handle, work)
            except Exception as error:  # noqa: BLE001  (any error of LMDeploy concerns this request only)
                self._fail(job, error)
            finally:
                job.handle = None
                job.end()

    def _take_handle(self) -> "Handle":
        """One that could not be reused is replaced here, where a failure concerns one request."""
        return self._handles.pop() if self._handles else self._make_handle()

    def _make_handle(self) -> "Handle":
        try:
            handle = self._new_handle()
        except Exception:
            self._no_handle_since = self._no_handle_since or time.monotonic()
            raise
        self._no_handle_since = None
        return handle

    async def _drive(self, job: Job, handle: "Handle", work: Work) -> None:
        take = job.put if work.reserve is None else partial(self._take, job, work.reserve)
        feed = Feed(self._hub, take, partial(self._break, job))
        try:
            await feed.run(work.start(handle, feed.signal))
        finally:
            if handle.is_reusable:
                self._handles.append(handle)

    def _take(
        self, job: Job, reserve: Callable[[int], None], new: TokenDelta | ServerError
    ) -> None:
        job.put(new)
        try:
            reserve(job.num_tokens)
        except ServerError as err:
            job.fail(err)
            self.abort(job)

    def _break(self, job: Job, error: Exception) -> None:
        """Reading a running request has failed."""
        self._fail(job, error)
        self.abort(job)

    def _fail(self, job: Job, error: Exception) -> None:
        _log.error("request %s failed in the engine", job.request_id, exc_info=error)
        job.fail(EngineError("The engine failed."))

    def _note_progress(self) -> None:
        self.last_progress = time.monotonic()
