"""Starts the processes of a pool, replaces those that are lost, and keeps an account of them."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from internvl_server.errors import EngineUnavailableError
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.types import VIDEO
from internvl_server.media.workers.answers import JobLimitError, NoFFmpegError, WorkerLostError
from internvl_server.media.workers.buffers import Buffers
from internvl_server.media.workers.process import Result, WorkerProcess, WorkerSpec

__all__ = ["PoolHealth", "WorkerSupply", "not_open"]

_log = logging.getLogger(__name__)

_NUM_TRIES = 2


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """What has become of the processes of a pool.

    Attributes:
        num_alive: Processes that run.
        num_busy: Those of them that start or have a job.
        num_started: Processes that were started, the first ones and those in the place of others.
        num_died: Processes that ended by themselves, or were ended because of what they answered.
        num_killed: Processes that were ended because a job took too long.
        problem: Why no process can be started, as a sentence; empty if the last start succeeded.
        problem_since: When it began, by `time.monotonic`; 0 without one.
    """

    num_alive: int = 0
    num_busy: int = 0
    num_started: int = 0
    num_died: int = 0
    num_killed: int = 0
    problem: str = ""
    problem_since: float = 0.0


class WorkerSupply:
    """The processes of a pool, for as many threads, each of which runs one job at a time.

    Args:
        spec: How they are started.
        num_workers: Their number.
    """

    def __init__(self, spec: WorkerSpec, num_workers: int) -> None:
        self._spec = spec
        self._buffers = Buffers()
        self._has_ffmpeg = spec.kind is VIDEO
        # None, at the left end, is a process that has yet to be started.
        self._idle: deque[WorkerProcess | None] = deque([None] * num_workers)
        self.workers: set[WorkerProcess] = set()
        self._health = PoolHealth()
        self._lock = Lock()
        self._is_filtering = True
        self.is_open = False

    def health(self) -> PoolHealth:
        """How the processes are now."""
        alive = [worker for worker in tuple(self.workers) if worker.is_alive()]
        num_busy = sum(worker.is_busy for worker in alive)
        return replace(self._health, num_alive=len(alive), num_busy=num_busy)

    @property
    def has_gap(self) -> bool:
        """Whether a process is missing that is not being started."""
        return None in self._idle and not self._health.problem

    def release(self, unused_s: float) -> None:
        """Give memory for results that nobody has used for so long back to the system."""
        self._buffers.release(unused_s)

    def kill(self) -> None:
        """Accept no more jobs, and end those that run."""
        self.is_open = False
        for worker in tuple(self.workers):
            worker.kill()

    def close(self) -> None:
        """End all processes and release their memory, once no thread uses them."""
        for worker in tuple(self.workers):
            self._close(worker)

    def fill(self) -> None:
        """Start a process that is missing, if one is.

        Raises:
            EngineUnavailableError: It does not start.
        """
        worker = self._idle.popleft()
        try:
            worker = self._usable(worker)
        finally:
            self._return(worker)

    def run(
        self,
        media: EncodedMedia,
        job: dict[str, Any],
        count: Callable[[dict[str, Any]], int],
        timeout_s: float,
    ) -> Result:
        """Run a job, a second time if its process is lost: that may have had another reason than the job.

        Raises:
            ImageError, VideoError: The image or video cannot be used, or takes too long.
            EngineUnavailableError: Two processes were lost, none can be started, one did not answer in time
                although it computed for less than half of it, or the pool is being closed.
        """
        kind = self._spec.kind
        worker = self._idle.pop()  # never empty: there are as many threads as places
        num_lost = 0
        try:
            while num_lost < _NUM_TRIES:
                worker = self._usable(worker)
                try:
                    return worker.run(media, job, count, timeout_s)
                except NoFFmpegError:
                    self._has_ffmpeg = True
                except WorkerLostError as err:
                    num_lost += 1
                    self._report(str(err), num_died=1)
        except JobLimitError:
            self._report("was ended: its job took too long", num_killed=1)
            raise kind.decode_error(f"The {kind.label} took too long to decode.") from None
        except TimeoutError:
            self._report("was ended: it did not answer in time", num_killed=1)
        finally:
            self._return(worker)
        raise EngineUnavailableError(
            f"The {kind.label} could not be decoded this time; try again shortly."
        )

    def _usable(self, worker: WorkerProcess | None) -> WorkerProcess:
        """Return the worker, or start another if there is none, or it died or did not finish its job."""
        if worker is not None and worker.is_alive() and not worker.is_busy:
            return worker
        if worker is not None:
            if not worker.is_busy:
                self._report("ended while it had no job", num_died=1)
            self._close(worker)
        return self._start()

    def _start(self) -> WorkerProcess:
        self._check_open()
        worker = None
        try:
            worker = WorkerProcess(self._spec, self._buffers, has_ffmpeg=self._has_ffmpeg)
            self.workers.add(worker)
            worker.wait_ready()
        except (OSError, WorkerLostError) as err:
            if worker is not None:
                self._close(worker)
            self._check_open()  # else it was `kill`
            problem = f"The processes that decode {self._spec.kind.label}s do not start."
            self._count(problem=problem)
            _log.error("%s %s", problem, err)
            raise EngineUnavailableError(problem) from err
        self._count(num_started=1, problem="")
        if worker.unfiltered and self._is_filtering:
            self._is_filtering = False
            _log.warning(
                "processes that decode %ss are confined by limits only, their system calls are not filtered: "
                "%s",
                self._spec.kind.label,
                worker.unfiltered,
            )
        return worker

    def _check_open(self) -> None:
        if not self.is_open:
            raise not_open()

    def _report(self, what: str, *, num_died: int = 0, num_killed: int = 0) -> None:
        self._check_open()  # else it was `kill`
        self._count(num_died=num_died, num_killed=num_killed)
        _log.warning("a process that decodes %ss %s", self._spec.kind.label, what)

    def _count(
        self,
        *,
        num_started: int = 0,
        num_died: int = 0,
        num_killed: int = 0,
        problem: str | None = None,
    ) -> None:
        with self._lock:
            now = self._health
            problem = now.problem if problem is None else problem
            self._health = PoolHealth(
                num_started=now.num_started + num_started,
                num_died=now.num_died + num_died,
                num_killed=now.num_killed + num_killed,
                problem=problem,
                problem_since=(now.problem_since or time.monotonic()) if problem else 0.0,
            )

    def _return(self, worker: WorkerProcess | None) -> None:
        if worker in self.workers and not worker.is_busy:
            self._idle.append(worker)
            return
        if worker is not None:
            self._close(worker)
        self._idle.appendleft(None)

    def _close(self, worker: WorkerProcess) -> None:
        self.workers.discard(worker)
        worker.close()


def not_open() -> EngineUnavailableError:
    """The error of a call before the start or after the end."""
    return EngineUnavailableError("The server is starting or shutting down; try again shortly.")
