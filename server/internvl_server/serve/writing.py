"""How the answer to one request is written, where uvicorn's own way is slow or wrong."""

from collections.abc import Callable
from functools import partial
from typing import Self
from weakref import ref

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from internvl_server.api.streaming.channel import Direct

__all__ = ["direct", "write_unframed"]


def direct(cycle: RequestResponseCycle) -> Callable[[], Direct]:
    """A function for the scope of a request; see `internvl_server.api.streaming.channel.DIRECT`."""
    return partial(_direct, ref(cycle))  # weak, because the scope is part of the cycle


def write_unframed(cycle: RequestResponseCycle) -> None:
    """Write a body without a length as it is, so that the end of the connection ends it.

    HTTP/1.0 has no chunks, which uvicorn would write (RFC 9112, section 6.1). Call it before the answer
    begins.
    """
    cycle.chunked_encoding = False
    cycle.expected_content_length = _AnyLength()


class _AnyLength(int):
    """What is left of a body of unknown length: no piece is longer, and it may end at any time."""

    def __lt__(self, other: int) -> bool:
        return False

    def __sub__(self, other: int) -> Self:
        return self


class _Direct:
    """Writes to the connection as `RequestResponseCycle.send` does, without its coroutine."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def write(self, body: bytes) -> bool:
        """Write a chunk of an answer that has begun, unless the client is behind; see `Direct`."""
        cycle = self._cycle
        if cycle.flow.write_paused or not cycle.chunked_encoding:
            return False
        if not cycle.disconnected:
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def abort(self) -> None:
        """Drop the connection."""
        self._cycle.transport.abort()


def _direct(cycle: ref[RequestResponseCycle]) -> _Direct:
    found = cycle()
    assert found is not None, "a request is answered while its cycle runs"
    return _Direct(found)
