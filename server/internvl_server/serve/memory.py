"""Gives the memory of ended requests back to the system, where the C library is glibc."""

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["IdleTrim", "return_large_blocks"]

_LARGE_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3  # of mallopt, in malloc.h
_IDLE_S = 2.0


def return_large_blocks() -> None:
    """Have every block from a megabyte upwards returned when it is freed.

    By default glibc keeps blocks of up to 32 MiB for reuse once one of their size was freed, so that a burst
    of requests with images would take its memory for ever. Arithmetic that allocates such blocks at each
    step is up to a sixth slower, so this is not for an engine in this process.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE_BYTES)


class IdleTrim:
    """Frees what is left of ended requests once the server has had nothing to do for a while.

    Args:
        trim: Does it, in a thread.
    """

    def __init__(self, trim: Callable[[], None] | None = None) -> None:
        self._trim = trim or _trim
        self._num_requests = 0
        self._quiet_since = 0.0
        self._is_due = False

    def tick(self, num_requests: int, num_in_flight: int) -> None:
        """Call it on the event loop, several times a second.

        Args:
            num_requests: That have arrived so far.
            num_in_flight: That have not ended.
        """
        now = time.monotonic()
        if num_in_flight or num_requests != self._num_requests:
            self._num_requests, self._quiet_since, self._is_due = num_requests, now, True
        elif self._is_due and now - self._quiet_since >= _IDLE_S:
            self._is_due = False
            asyncio.get_running_loop().run_in_executor(None, self._trim)


def _trim() -> None:
    gc.collect()  # takes milliseconds, because all that lives as long as the process is frozen
    _call("malloc_trim", 0)


def _call(name: str, *arguments: Any) -> None:  # noqa: ANN401 - of a C function
    with suppress(AttributeError):
        getattr(ctypes.CDLL(None), name)(*arguments)
