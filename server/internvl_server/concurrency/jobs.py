"""Processes for jobs whose time and memory cannot be foreseen, such as a client's schema or pattern.

A thread that computes natively, or matches a regular expression, cannot be stopped; a process can.
"""

import asyncio
import json
import logging
import os
import resource
import sys
import traceback
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from internvl_server.concurrency.confinement.process import confine, limit_time, protect
from internvl_server.concurrency.confinement.rules import rules_for
from internvl_server.concurrency.priority import NICENESS, give_way
from internvl_server.concurrency.programs import import_environment
from internvl_server.errors import EngineError, EngineOverloadedError, EngineUnavailableError

__all__ = ["JobLimitError", "JobProcesses", "serve_jobs"]

_log = logging.getLogger(__name__)

_START_S = 60.0
_MAX_ANSWER_BYTES = 64 << 20
# A job that waits instead of computing is ended after this many times its limit.
_WALL_FACTOR = 4
_FAULT = "fault"
# What the standard library imports only in special cases, which a confined process cannot do any more.
_IMPORTED_LATE = ("_strptime", "unicodedata")


class JobLimitError(ValueError):
    """A job exceeded its time or memory, or its process died."""


class JobProcesses:
    """Runs jobs in a few processes, each started by the first job that finds the others busy.

    A process inherits neither the environment nor open files, and is confined before its first job. It ends
    itself when a job exceeds the limits, and the next job starts another.

    Args:
        program: Name of the module that is run; it calls `serve_jobs`.
        num_processes: Maximum number of processes at a time.
        limit_s: Seconds of processor time that a job may take.
        wait_s: Seconds that a job may wait for a free process.
        max_bytes: Limit of the memory of a process.
    """

    def __init__(
        self,
        program: str,
        *,
        num_processes: int = 2,
        limit_s: float = 5.0,
        wait_s: float = 10.0,
        max_bytes: int = 2 << 30,
    ) -> None:
        self._program = program
        self._limit_s = limit_s
        self._wait_s = wait_s
        self._max_bytes = max_bytes
        self._rules = rules_for(has_threads=True)  # native compilers have some
        self._slots = asyncio.Semaphore(num_processes)
        self._idle: list[Process] = []
        self._all: set[Process] = set()
        self._is_closed = False

    async def run(self, job: object) -> dict[str, Any]:
        """Run a job, given as JSON data, and return the program's answer.

        Raises:
            JobLimitError: It exceeded its time or memory, or its process died.
            EngineOverloadedError: All processes are busy.
            EngineUnavailableError: `close` was called.
            EngineError: The program failed; its traceback is the message.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise EngineOverloadedError(
                "Other requests' formats are being compiled or checked. Retry shortly."
            ) from None
        try:
            answer = await self._run(job)
        finally:
            self._slots.release()
        if _FAULT in answer:
            raise EngineError(str(answer[_FAULT]))
        return answer

    async def close(self) -> None:
        """End all processes. Jobs that run fail. Idempotent."""
        self._is_closed = True
        await asyncio.gather(*map(self._end, list(self._all)))

    async def _run(self, job: object) -> dict[str, Any]:
        self._check_open()
        try:
            process = self._take_idle() or await self._start()
        except OSError as err:  # too slowly, or the system has no more processes or files
            raise EngineError(f"The program {self._program} does not start.") from err
        try:
            async with asyncio.timeout(self._limit_s * _WALL_FACTOR):
                answer = await _ask(process, job)
        except (TimeoutError, OSError, ValueError) as err:
            self._check_open()
            raise JobLimitError("it takes too much time or memory") from err
        else:
            self._idle.append(process)
            return answer
        finally:  # also when the request was cancelled
            if process not in self._idle:
                await self._end(process)

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineUnavailableError("The engine was shut down.")

    def _take_idle(self) -> Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            self._all.discard(process)  # the system ended it, as it does when memory is short
        return None

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", self._program, str(self._limit_s), str(self._max_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=import_environment(),
            start_new_session=True,
            limit=_MAX_ANSWER_BYTES,
        )
        self._all.add(process)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                process.stdin.write(self._rules + b"\n")
                ready = await process.stdout.readline()
            self._check_open()
            unfiltered = json.loads(ready)["unfiltered"]
        except (ValueError, LookupError, TypeError) as err:  # it printed nothing, or something else
            await self._end(process)
            raise EngineError(f"The program {self._program} does not start.") from err
        except BaseException:
            await self._end(process)
            raise
        if unfiltered:
            _log.warning("the system calls of %s are not filtered: %s", self._program, unfiltered)
        return process

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        self._all.discard(process)


async def _ask(process: Process, job: object) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(job).encode() + b"\n")
    await process.stdin.drain()
    answer = json.loads(await process.stdout.readline())
    assert isinstance(answer, dict)
    return answer


def serve_jobs(answer: Callable[[Any], Mapping[str, Any]], *samples: object) -> None:
    """Answer jobs until the parent closes the pipe: the main function of the child process.

    Args:
        answer: Answers one job with an object of JSON data.
        samples: Jobs that are done first, so that everything is imported before the process is confined.
    """
    limit_s, max_bytes = float(sys.argv[1]), int(sys.argv[2])
    protect()
    give_way(NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    for module in _IMPORTED_LATE:
        import_module(module)
    for sample in samples:
        answer(sample)
    with os.fdopen(os.dup(0), "rb") as jobs, os.fdopen(os.dup(1), "wb") as answers:
        nothing = os.open(os.devnull, os.O_RDWR)  # libraries may print
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.close(nothing)
        answers.write(json.dumps({"unfiltered": confine(jobs.readline())}).encode() + b"\n")
        answers.flush()
        for line in jobs:
            job = json.loads(line)
            limit_time(limit_s)
            written = json.dumps(_answered(answer, job)).encode()
            limit_time(0)
            answers.write(written + b"\n")
            answers.flush()


def _answered(answer: Callable[[Any], Mapping[str, Any]], job: object) -> Mapping[str, Any]:
    try:
        return answer(job)
    except MemoryError:
        os._exit(1)
    except Exception:  # noqa: BLE001  (the parent raises it)
        return {_FAULT: traceback.format_exc()}
