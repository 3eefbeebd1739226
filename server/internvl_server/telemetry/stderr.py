"""A log handler that writes to stderr and never waits for whoever reads it."""

import logging
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["StderrHandler"]

# A pipe that is ready takes as many bytes without waiting (POSIX's PIPE_BUF on Linux).
_PIECE_BYTES = 4096


class StderrHandler(logging.Handler):
    """Drops events while stderr takes nothing, and says later how many.

    A write to a pipe that is full waits, and with it the event loop and all requests. Looks up `sys.stderr`
    for each event, because it may be replaced and the old stream closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num_lost = 0
        self._is_cut = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write an event, if that is possible now."""
        try:
            if self._num_lost and self._write(self.format(_loss_of(self._num_lost)) + "\n"):
                self._num_lost = 0
            self._num_lost += not self._write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - a log handler must not raise into its caller
            self._num_lost += 1

    def _write(self, text: str) -> bool:
        """Write a text in pieces. Returns whether the last one was possible without waiting."""
        fd = _descriptor(sys.stderr)
        if fd is None:
            sys.stderr.write(text)
            return True
        sys.stderr.flush()
        data = b"\n" * self._is_cut + text.encode(errors="backslashreplace")
        ready = select.poll()
        ready.register(fd, select.POLLOUT)
        for start in range(0, len(data), _PIECE_BYTES):
            if not ready.poll(0):
                self._is_cut |= start > 0
                return False
            os.write(fd, data[start : start + _PIECE_BYTES])
        self._is_cut = False
        return True


def _loss_of(number: int) -> logging.LogRecord:
    message = "%d events were lost: nobody read stderr"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, message, (number,), None)


def _descriptor(stream: TextIO) -> int | None:
    with suppress(OSError, AttributeError, ValueError):
        return stream.fileno()
    return None
