"""One request on a connection, timed: as cheap as a client can be, so that it measures the server."""

import asyncio
import re
import time
from dataclasses import dataclass, field

__all__ = ["Address", "Timing", "send"]

_TEXT = re.compile(rb'"content": ?"[^"]')
_KEPT_BYTES = 4096  # of the end, where the usage is; and of a refusal


@dataclass(frozen=True)
class Address:
    """Where a server listens, and the name of its model."""

    port: int
    model: str = "m"
    host: str = "127.0.0.1"


@dataclass
class Timing:
    """What came of a request; times in seconds. `num_frames` counts events with text."""

    status: int = 0
    first_s: float | None = None
    total_s: float = 0.0
    gaps: list[float] = field(default_factory=list)
    num_frames: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_complete: bool = False
    tail: bytes = b""

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.is_complete


class _Reader(asyncio.Protocol):
    """Writes the request and reads until the server closes the connection."""

    def __init__(self, head_and_body: bytes, ended: "asyncio.Future[None]") -> None:
        self._request, self._ended = head_and_body, ended
        self._last = 0.0
        self.timing = Timing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._start = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, timing = time.perf_counter(), self.timing
        if not timing.status:
            timing.status = int(data.split(b" ", 2)[1])
        timing.tail = (timing.tail + data)[-_KEPT_BYTES:]
        if found := len(_TEXT.findall(data)):
            if timing.first_s is None:
                timing.first_s = now - self._start
            else:
                timing.gaps.append(now - self._last)
            self._last = now
            timing.num_frames += found

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # an answer that was cut is not complete
        timing = self.timing
        timing.total_s = time.perf_counter() - self._start
        timing.is_complete = b"[DONE]" in timing.tail or b'"usage"' in timing.tail
        timing.prompt_tokens = self._count(b"prompt_tokens")
        timing.completion_tokens = self._count(b"completion_tokens")
        if not self._ended.done():
            self._ended.set_result(None)

    def _count(self, name: bytes) -> int:
        found = re.findall(rb'"%s": ?(\d+)' % name, self.timing.tail)
        return int(found[-1]) if found else 0


async def send(
    address: Address, body: bytes, *, path: str = "/v1/chat/completions", leave_after_s: float = 0.0
) -> Timing:
    """Post a body and read the answer to its end, or close the connection after some seconds."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    transport, reader = await loop.create_connection(
        lambda: _Reader(head.encode() + body, ended), address.host, address.port
    )
    try:
        if leave_after_s:
            await asyncio.wait([ended], timeout=leave_after_s)
        else:
            await ended
    finally:
        transport.close()
    return reader.timing
