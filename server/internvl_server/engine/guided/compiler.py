"""Compiles constraints before a request is accepted: off the event loop, bounded in size, time and number."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from internvl_server.core import Constraint
from internvl_server.engine.guided.limits import constraint_key
from internvl_server.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)

__all__ = ["GrammarCompiler", "UnsupportedConstraintError"]

_log = logging.getLogger(__name__)

_Grammar = TypeVar("_Grammar")

_NUM_THREADS = 2
_TIMEOUT_S = 5.0
_MAX_CACHED = 32


class UnsupportedConstraintError(ValueError):
    """The constraint is well-formed, but the engine would not enforce all of it."""


class GrammarCompiler(Generic[_Grammar]):
    """Compiles constraints in two threads and caches the grammars used last.

    Equal constraints are compiled once, even when they arrive at the same time. A compilation that times
    out is abandoned, but its thread keeps running: while both threads are occupied, only requests that
    need a new grammar are refused.

    Args:
        compile_constraint: Makes the grammar, which requests may share. A `ValueError` is the client's
            fault and its first line is the reason; any other exception is a defect of the server.
        timeout_s: Seconds allowed for one constraint.
    """

    def __init__(
        self, compile_constraint: Callable[[Constraint], _Grammar], timeout_s: float = _TIMEOUT_S
    ) -> None:
        self._compile_constraint = compile_constraint
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")
        self._free_threads = asyncio.Semaphore(_NUM_THREADS)
        self._is_closed = False
        self._cache: OrderedDict[Hashable, asyncio.Future[_Grammar]] = OrderedDict()

    async def compile(self, constraint: Constraint) -> _Grammar:
        """Compile a constraint, or return its cached grammar.

        Raises:
            InvalidRequestError: The constraint is too large, malformed or unsupported, or takes too long;
                names `constraint.param`.
            EngineOverloadedError: Both threads are busy.
            EngineUnavailableError: `close` was called.
            EngineError: The compiler has a defect; its traceback is logged.
        """
        param = constraint.param
        try:
            key = constraint_key(constraint)
            work = self._cache.get(key) or await self._submit(key, constraint)
            self._cache.move_to_end(key)
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(work)
        except TimeoutError:
            raise InvalidRequestError(
                f"'{param}' takes more than {self._timeout_s:g} s to compile. Simplify it.",
                param=param,
            ) from None
        except ValueError as err:
            is_unsupported = isinstance(err, UnsupportedConstraintError)
            refusal = UnsupportedParameterError if is_unsupported else InvalidRequestError
            raise refusal(f"'{param}' cannot be used: {_first_line(err)}.", param=param) from err

    def close(self) -> None:
        """Start no further compilation; those that run are abandoned."""
        self._is_closed = True
        self._threads.shutdown(wait=False)

    async def _submit(self, key: Hashable, constraint: Constraint) -> asyncio.Future[_Grammar]:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free_threads.acquire()
        except TimeoutError:
            raise EngineOverloadedError(
                "Other constraints are being compiled. Retry shortly."
            ) from None
        if self._is_closed:
            raise EngineUnavailableError("The engine was shut down.")
        if key in self._cache:  # submitted by another request in the meantime
            self._free_threads.release()
            return self._cache[key]
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._run, constraint)
        work.add_done_callback(partial(self._finish, key))
        self._cache[key] = work
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return work

    def _run(self, constraint: Constraint) -> _Grammar:
        try:
            return self._compile_constraint(constraint)
        except ValueError:
            raise
        except Exception as err:
            _log.exception("Compiling a constraint failed.")
            raise EngineError("The engine failed to compile the constraint.") from err

    def _finish(self, key: Hashable, work: asyncio.Future[_Grammar]) -> None:
        self._free_threads.release()
        # Retrieving the exception also keeps asyncio from reporting one that no request waits for.
        if (work.cancelled() or work.exception()) and self._cache.get(key) is work:
            del self._cache[key]


def _first_line(error: ValueError) -> str:
    line, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return line[:300].removesuffix(".")
