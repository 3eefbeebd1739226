"""One raw request and its answer, with all that tells whether the answer is whole."""

import asyncio
import time
from dataclasses import dataclass, field

import httptools

from scripts.load.streams import Address

__all__ = ["STAY", "Answer", "Leave", "exchange", "request_bytes"]


@dataclass(frozen=True)
class Leave:
    """When the client closes the connection, by whichever comes first; None is never.

    Attributes:
        after_sent: Bytes of the request that were sent; the rest never is.
        after_s: Seconds since the request was sent.
        after_received: Bytes of the answer's body.
    """

    after_sent: int | None = None
    after_s: float | None = None
    after_received: int | None = None


STAY = Leave()
_PIECE_BYTES = 1 << 18


@dataclass
class Answer:
    """What came back; times in seconds.

    Attributes:
        is_whole: The answer ended as its framing says.
        has_left: The client closed the connection before that.
        problem: Why there is no whole answer, if the client did not leave.
    """

    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_connected: bool = False
    is_whole: bool = False
    has_left: bool = False
    problem: str = ""
    first_byte_s: float | None = None
    total_s: float = 0.0


async def exchange(
    address: Address, request: bytes, *, leave: Leave = STAY, timeout_s: float = 180.0
) -> Answer:
    """Send a request on a fresh connection and read the answer. Raises nothing for what the server does."""
    method, _, rest = request.partition(b" ")
    answer = Answer(rest.lstrip(b" ").partition(b" ")[0].decode("latin-1"))
    start = time.perf_counter()
    loop = asyncio.get_running_loop()
    try:
        transport, client = await loop.create_connection(
            lambda: _Client(answer, request, leave, has_body=method != b"HEAD"),
            address.host,
            address.port,
        )
    except OSError as error:
        answer.problem = f"no connection: {error.strerror or error}"
        return answer
    try:
        await asyncio.wait_for(client.ended, timeout_s)
    except TimeoutError:
        answer.problem = f"no end within {timeout_s:.0f} s"
    finally:
        transport.abort() if answer.has_left else transport.close()
        answer.total_s = time.perf_counter() - start
    return answer


class _Client(asyncio.Protocol):
    """Ends at the end of the answer, of the connection, or when the client is to leave."""

    def __init__(self, answer: Answer, request: bytes, leave: Leave, *, has_body: bool) -> None:
        self._answer, self._leave, self._has_body = answer, leave, has_body
        self._rest = memoryview(request)[: leave.after_sent]
        self._is_paused = False
        self._parser = httptools.HttpResponseParser(self)
        self._is_framed = True
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._start = time.perf_counter()
        self._answer.is_connected = True
        self._transport = transport
        self.resume_writing()
        if self._leave.after_sent is not None and self._leave.after_s is None:
            self._go()
        elif self._leave.after_s is not None:
            self._timer = asyncio.get_running_loop().call_later(self._leave.after_s, self._go)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        """Write on in pieces: a transport would copy what it cannot send at once."""
        self._is_paused = False
        while self._rest and not self._is_paused:
            piece, self._rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
            self._transport.write(piece)

    def data_received(self, data: bytes) -> None:
        if self._answer.first_byte_s is None:
            self._answer.first_byte_s = time.perf_counter() - self._start
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_framed and exc is None:  # the end of the connection ends such a body
            self.on_message_complete()
        self._end("the connection was reset" if exc else "the connection was closed")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._is_framed = not {"content-length", "transfer-encoding"}.isdisjoint(
            self._answer.headers
        )
        if not self._has_body:
            self.on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._answer.body += body
        most = self._leave.after_received
        if most is not None and len(self._answer.body) >= most:
            self._go()

    def on_message_complete(self) -> None:
        if self._answer.status < 200:  # an interim answer comes before the real one
            self._answer.headers.clear()
            return
        self._answer.is_whole = not self._answer.has_left
        self._end("")

    def _go(self) -> None:
        if not self.ended.done():
            self._answer.has_left = True
            self._end("")

    def _end(self, problem: str) -> None:
        if self.ended.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        self._answer.problem = problem
        self.ended.set_result(None)


def request_bytes(
    path: str, body: bytes = b"", *, method: str = "POST", headers: dict[str, str] | None = None
) -> bytes:
    """A request on a connection that ends with its answer."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
