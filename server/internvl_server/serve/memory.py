"""Gives the memory of ended requests back to the system, where the C library is glibc."""

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Trim", "limit_arenas", "return_large_blocks"]

_LARGE_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3  # of mallopt, in malloc.h
_M_ARENA_MAX = -8
_MAX_ARENAS = 2
_IDLE_S = 2.0
_CHECK_S = 10.0
_MAX_FREE_BYTES = 32 << 20


def limit_arenas() -> None:
    """Have all threads share two heaps. Call it before there are threads.

    By default glibc makes up to eight for each core, and what is freed in one serves no thread of another:
    under mixed load, a server with the CPU engine kept 280 MiB that were free, beside 310 MiB in use.
    """
    _call("mallopt", _M_ARENA_MAX, _MAX_ARENAS)


def return_large_blocks() -> None:
    """Have every block from a megabyte upwards returned when it is freed.

    By default glibc keeps blocks of up to 32 MiB for reuse once one of their size was freed, so that a burst
    of requests with images would take its memory for ever. Arithmetic that allocates such blocks at each
    step is up to a sixth slower, so this is not for an engine in this process.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE_BYTES)


class Trim:
    """Frees what is left of ended requests: once the server is idle for a while, and now and then under load.

    glibc keeps freed blocks. Under load that never ends, those into which nothing fits become ever more.

    Args:
        release: Gives back what others keep for reuse but have not used for so many seconds; in a thread.
        trim: Frees everything, in a thread, while the server is idle.
        trim_if_much: Frees what is free already if it is much, in a thread, under load.
    """

    def __init__(
        self,
        release: Callable[[float], None],
        trim: Callable[[], None] | None = None,
        trim_if_much: Callable[[], None] | None = None,
    ) -> None:
        self._release = release
        self._trim = trim or _trim
        self._trim_if_much = trim_if_much or _trim_if_much
        self._checked_at = time.monotonic()
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
            if now - self._checked_at >= _CHECK_S:
                self._checked_at = now
                self._on_thread(_CHECK_S, self._trim_if_much)
        elif self._is_due and now - self._quiet_since >= _IDLE_S:
            self._is_due = False
            self._on_thread(0, self._trim)

    def _on_thread(self, unused_s: float, trim: Callable[[], None]) -> None:
        def work() -> None:
            trim()
            self._release(unused_s)  # of what the collector has just freed as well

        asyncio.get_running_loop().run_in_executor(None, work)


def _trim() -> None:
    gc.collect()  # takes milliseconds, because all that lives as long as the process is frozen
    _call("malloc_trim", 0)


def _trim_if_much() -> None:
    with suppress(AttributeError):
        info = ctypes.CDLL(None).mallinfo2
        info.restype = _MallocInfo
        if info().fordblks > _MAX_FREE_BYTES:
            _call("malloc_trim", 0)


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h; `fordblks` are the bytes of blocks that are free but kept."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    )  # fmt: skip


def _call(name: str, *arguments: Any) -> None:  # noqa: ANN401 - of a C function
    with suppress(AttributeError):
        getattr(ctypes.CDLL(None), name)(*arguments)
