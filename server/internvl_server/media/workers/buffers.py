"""Memory for pixel values that is used again, because the first write to a fresh page is expensive."""

import ctypes
import mmap
import threading
import time
import weakref
from collections import deque

import numpy as np

from internvl_server.core import PixelValues

__all__ = ["Buffers"]

_MAX_IDLE_BYTES = 256 << 20
# How much longer than requested a buffer may be.
_MAX_SLACK = 1.25


class Buffers:
    """Lends memory, which returns once nothing refers to it any more. Thread-safe.

    A reference may be a numpy array, a tensor that shares its memory, or a native object that has taken the
    tensor by DLPack: each keeps the lease alive. What has returned stays until `release` is called.
    """

    def __init__(self) -> None:
        # With the time of its return, by `time.monotonic`; what returned last is at the right end.
        self._idle: deque[tuple[float, mmap.mmap]] = deque()
        self._lock = threading.RLock()  # a garbage collection under the lock may return a buffer

    def copy(self, values: PixelValues) -> PixelValues:
        """A copy of an array in lent memory. Nothing else of that memory can be read through it."""
        lease = (ctypes.c_uint8 * values.nbytes).from_buffer(memory := self._take(values.nbytes))
        weakref.finalize(lease, self._give_back, memory).atexit = False
        copied: PixelValues = np.ndarray(values.shape, values.dtype, memoryview(lease))
        np.copyto(copied, values)  # releases the interpreter lock
        return copied

    def release(self, unused_s: float) -> None:
        """Give memory that nobody has used for so long back to the system. Takes milliseconds."""
        since = time.monotonic() - unused_s
        while self._pop_unused(since):
            pass

    def _pop_unused(self, since: float) -> mmap.mmap | None:
        with self._lock:
            is_old = bool(self._idle) and self._idle[0][0] <= since
            return self._idle.popleft()[1] if is_old else None

    def _take(self, num_bytes: int) -> mmap.mmap:
        with self._lock:
            # The one that was used last, of several, so that the others grow old.
            fits = [
                e for e in reversed(self._idle) if num_bytes <= len(e[1]) <= _MAX_SLACK * num_bytes
            ]
            if fits:
                self._idle.remove(smallest := min(fits, key=lambda entry: len(entry[1])))
                return smallest[1]
        return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _give_back(self, memory: mmap.mmap) -> None:
        with self._lock:
            if sum(len(idle) for _, idle in self._idle) + len(memory) <= _MAX_IDLE_BYTES:
                self._idle.append((time.monotonic(), memory))
