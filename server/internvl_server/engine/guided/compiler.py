"""Compiles constraints before a request is accepted: bounded in size, time and number, with a cache."""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from internvl_server.concurrency.jobs import JobLimitError, JobProcesses
from internvl_server.concurrency.offload import offload
from internvl_server.core import Constraint
from internvl_server.engine.guided.limits import constraint_key
from internvl_server.engine.guided.serialization import constraint_to_json
from internvl_server.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)

__all__ = [
    "Compiled",
    "GrammarCompiler",
    "Judge",
    "Judgement",
    "ProcessJudge",
    "UnsupportedConstraintError",
]

_log = logging.getLogger(__name__)

_Grammar = TypeVar("_Grammar")

_NUM_THREADS = 2
_QUICK_S = 0.25
_LIMIT_S = 5.0
# Seconds that a grammar may wait for a thread, which an engine's compiler may take up for as long.
_WAIT_S = 30.0
_MAX_CACHED = 32
_MAX_REFUSED = 256
_SLOW_REFUSED_S = 60.0


class UnsupportedConstraintError(ValueError):
    """The constraint is well-formed, but the engine would not enforce all of it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A constraint as the text of a grammar that compiles, and the schema keywords it does not enforce."""

    grammar: str
    loosened: tuple[str, ...] = ()


class Judge(Protocol):
    """Writes constraints as grammars that compile in time."""

    async def judge(self, constraint: Constraint) -> Judgement:
        """Write a constraint as a grammar.

        Raises:
            ValueError: That is the client's fault; the first line is the reason.
            Exception: It is a defect of the server.
        """

    async def close(self) -> None:
        """Judge no more."""


@dataclass(frozen=True, slots=True)
class Compiled(Generic[_Grammar]):
    """A compiled grammar, which requests may share, and the schema keywords it does not enforce."""

    grammar: _Grammar
    loosened: tuple[str, ...]


class ProcessJudge:
    """Judges constraints in other processes, which end when one takes too long.

    Almost all take a few milliseconds. One that takes longer is begun again in a process for such, so that
    it does not keep the others waiting.

    Args:
        program: The module they run; it answers a constraint with the members of a `Judgement`, or with
            `refusal`, the reason, and `is_unsupported`.
        config: Sent along with each constraint.
    """

    def __init__(self, program: str, *config: str) -> None:
        self._quick = JobProcesses(program, limit_s=_QUICK_S)
        self._slow = JobProcesses(program, limit_s=_LIMIT_S, num_processes=1)
        self._config = config

    async def judge(self, constraint: Constraint) -> Judgement:
        """Write a constraint as a grammar; see `Judge`."""
        job = [constraint_to_json(constraint), *self._config]
        try:
            answer = await self._quick.run(job)
        except JobLimitError:
            answer = await self._slow.run(job)
        if "refusal" in answer:
            is_unsupported = answer.get("is_unsupported", False)
            raise (UnsupportedConstraintError if is_unsupported else ValueError)(answer["refusal"])
        return Judgement(answer["grammar"], tuple(answer["loosened"]))

    async def close(self) -> None:
        """End the processes."""
        await self._quick.close()
        await self._slow.close()


class GrammarCompiler(Generic[_Grammar]):
    """Judges constraints, compiles those that pass on two threads, and caches the ones used last.

    Equal constraints are compiled once, even when they arrive at the same time, and those that were refused
    are refused again without another try; for a minute, if that may have been due to other work.

    Args:
        judge: Writes a constraint as a grammar; closed with the compiler.
        compile_grammar: Compiles the grammar of a judgement.
    """

    def __init__(self, judge: Judge, compile_grammar: Callable[[str], _Grammar]) -> None:
        self._judge = judge
        self._compile_grammar = compile_grammar
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")
        self._free_threads = asyncio.Semaphore(_NUM_THREADS)
        self._is_closed = False
        self._cache: OrderedDict[Hashable, asyncio.Task[Compiled[_Grammar]]] = OrderedDict()
        self._refused: OrderedDict[Hashable, tuple[ValueError, float]] = OrderedDict()

    async def compile(self, constraint: Constraint) -> Compiled[_Grammar]:
        """Compile a constraint, or return its cached grammar.

        Raises:
            InvalidRequestError: The constraint is too large, malformed or unsupported, or takes too long;
                names `constraint.param`.
            EngineOverloadedError: Too many constraints are being compiled.
            EngineUnavailableError: `close` was called.
            EngineError: The compiler has a defect; its traceback is logged.
        """
        param = constraint.param
        try:
            key = await offload(partial(constraint_key, constraint))
            self._check_refused(key)
            work = self._cache.get(key) or self._submit(key, constraint)
            self._cache.move_to_end(key)
            return await asyncio.shield(work)
        except ValueError as err:
            is_unsupported = isinstance(err, UnsupportedConstraintError)
            error = UnsupportedParameterError if is_unsupported else InvalidRequestError
            raise error(f"'{param}' cannot be used: {_first_line(err)}.", param=param) from None

    async def close(self) -> None:
        """Start no further compilation; those that run fail."""
        self._is_closed = True
        self._threads.shutdown(wait=False)
        await self._judge.close()

    def _check_refused(self, key: Hashable) -> None:
        refusal, until = self._refused.get(key, (None, 0.0))
        if refusal is not None and time.monotonic() < until:
            raise refusal.with_traceback(None)  # else it would keep the frames of every request

    def _submit(self, key: Hashable, constraint: Constraint) -> asyncio.Task[Compiled[_Grammar]]:
        work = asyncio.create_task(self._compile(constraint))
        work.add_done_callback(partial(self._finish, key))
        self._cache[key] = work
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return work

    async def _compile(self, constraint: Constraint) -> Compiled[_Grammar]:
        self._check_open()
        try:
            judgement = await self._judge.judge(constraint)
            grammar = await self._compiled(judgement.grammar)
        except (ValueError, EngineOverloadedError, EngineUnavailableError):
            raise
        except Exception as err:
            _log.exception("Compiling a constraint failed.")
            raise EngineError("The engine failed to compile the constraint.") from err
        return Compiled(grammar, judgement.loosened)

    async def _compiled(self, grammar: str) -> _Grammar:
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._free_threads.acquire()
        except TimeoutError:
            raise EngineOverloadedError(
                "Other requests' formats are being compiled. Retry shortly."
            ) from None
        try:
            self._check_open()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._compile_grammar, grammar)
        finally:
            self._free_threads.release()

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineUnavailableError("The engine was shut down.")

    def _finish(self, key: Hashable, work: asyncio.Task[Compiled[_Grammar]]) -> None:
        # Retrieving the exception also keeps asyncio from reporting one that no request waits for.
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        if error is not None and self._cache.get(key) is work:
            del self._cache[key]
        if isinstance(error, ValueError):
            lasts_s = _SLOW_REFUSED_S if isinstance(error, JobLimitError) else math.inf
            self._refused[key] = error.with_traceback(None), time.monotonic() + lasts_s
            if len(self._refused) > _MAX_REFUSED:
                self._refused.popitem(last=False)


def _first_line(error: ValueError) -> str:
    line, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return line[:300].removesuffix(".")
