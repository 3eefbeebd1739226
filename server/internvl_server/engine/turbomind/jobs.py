"""Runs accepted requests on native handles, in order of arrival.

Each job has its own task, separate from its reader's: a reader may leave at any await, but a native request
must be tracked until TurboMind has reported its end.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from internvl_server.core import FinishReason, GenerateRequest, TokenDelta
from internvl_server.engine.stream import Stream
from internvl_server.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ServerError,
)

if TYPE_CHECKING:
    from internvl_server.engine.turbomind.outputs import Output
    from internvl_server.engine.turbomind.runtime import Handle, Multimodal

__all__ = ["Job", "JobPool", "Work"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Work:
    """Input of the native side: the request without pixels, its images, its compiled grammar.

    `reserve` is called with the number of tokens so far, and raises when there is no memory for more.
    """

    request: GenerateRequest
    images: "Multimodal | None"
    grammar: object | None
    reserve: Callable[[int], None] = lambda _: None


class Job:
    """One accepted request. `handle` is set while it runs."""

    def __init__(self, stream: Stream, request: GenerateRequest) -> None:
        self._stream = stream
        self._stop_token_ids = request.stop_token_ids
        self._last_id: int | None = None
        self._is_over = False
        self.num_tokens = 0
        self.handle: Handle | None = None
        self.is_cancelled = False
        self.task: asyncio.Task[None]

    def put(self, output: "Output") -> None:
        """Pass new tokens, or the end, to the reader."""
        if self._is_over:
            return
        self.num_tokens += len(output.token_ids)
        if output.token_ids:
            self._last_id = output.token_ids[-1]
        if output.error is not None:
            self.fail(output.error)
        elif output.is_last:
            self._is_over = True
            reason: FinishReason = "stop" if self._last_id in self._stop_token_ids else "length"
            self._put(output, reason)
        else:
            self._put(output, None)

    def _put(self, output: "Output", reason: FinishReason | None) -> None:
        new = TokenDelta(output.token_ids, reason, output.logprobs, output.num_cached_tokens)
        self._stream.put(new)

    def fail(self, error: ServerError) -> None:
        """Fail the reader's stream; not with an error that invites a retry once it has tokens."""
        self._is_over = True
        is_retriable = isinstance(error, EngineOverloadedError | EngineUnavailableError)
        if is_retriable and self._last_id is not None:
            error = EngineError(*error.args)
        self._stream.fail(error)

    def end(self) -> None:
        """The native side is done; fail a reader that still waits."""
        if not self._is_over:
            self.fail(EngineError("The engine ended the request without a reason."))


class JobPool:
    """A fixed number of native handles, assigned to jobs in order of arrival.

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
        self.last_progress = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Seconds that requests have waited for progress, or that TurboMind has created no handle."""
        since = [self.last_progress] if self._jobs else []
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
        return sum(job.handle is not None for job in self._jobs)

    @property
    def num_waiting(self) -> int:
        """Jobs without a handle."""
        return len(self._jobs) - self.num_running

    def submit(self, stream: Stream, work: Work) -> Job:
        """Queue a request."""
        if not self._jobs:
            self.last_progress = time.monotonic()  # idle time is not a stall
        job = Job(stream, work.request)
        job.task = asyncio.create_task(self._run(job, work))
        self._jobs.add(job)
        job.task.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    async def settle(self) -> None:
        """Wait until all requests have ended, and replace the handles that could not be reused."""
        await asyncio.gather(*(job.task for job in self._jobs))
        self._handles += [self._new_handle() for _ in range(self._size - len(self._handles))]

    async def abort(self, job: Job) -> None:
        """End a job whose reader has left, without waiting for the native side."""
        if job.task.done() or job.is_cancelled:
            return
        job.is_cancelled = True
        if job.handle is None:
            job.task.cancel()
        else:
            await job.handle.cancel()

    async def close(self, timeout_s: float) -> bool:
        """Fail and abort every job. Returns whether the native side has confirmed it in time."""
        jobs = tuple(self._jobs)
        for job in jobs:
            kind = EngineUnavailableError if job.handle is None else EngineError
            job.fail(kind("The engine was shut down."))
            await self.abort(job)
        if jobs:
            await asyncio.wait([job.task for job in jobs], timeout=timeout_s)
        self._handles.clear()
        return all(job.task.done() for job in jobs)

    async def _run(self, job: Job, work: Work) -> None:
        async with self._slots:
            try:
                job.handle = self._take_handle()
                await self._drive(job, job.handle, work)
            except Exception:  # noqa: BLE001  (logged, with its traceback)
                # Any error of LMDeploy concerns this request only.
                _log.exception("request %s failed in the engine", work.request.request_id)
                job.fail(EngineError("The engine failed."))
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
        try:
            async with aclosing(handle.outputs(work.request, work.images, work.grammar)) as outputs:
                async for output in outputs:
                    self.last_progress = time.monotonic()
                    job.put(output)
                    await self._reserve(job, work)
        finally:
            if handle.is_reusable:
                self._handles.append(handle)

    async def _reserve(self, job: Job, work: Work) -> None:
        try:
            work.reserve(job.num_tokens)
        except ServerError as err:
            job.fail(err)
            await self.abort(job)
