"""Media hosts that misbehave."""

import asyncio
import contextlib
import socket
from types import TracebackType

from scripts.injections.program import HOST

__all__ = ["Host"]

_ESTABLISHED = 1  # of `enum tcp_state`, the first byte of TCP_INFO


class Host:
    """A host on a free port, for which the server must have permission. A context.

    Args:
        manner: `hang` answers nothing, `reset` ends the connection, `drip` sends a byte a second, `endless`
            sends for ever, `5xx` fails, `picture` sends `body`. May be changed at any time.
    """

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self.body = b""
        self.most_open = 0  # connections at a time that no side had ended
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Host":
        self._server = await asyncio.start_server(self._serve, HOST, 0, backlog=512)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.most_open = max(self.most_open, sum(map(_is_established, self._open)))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            answer = asyncio.ensure_future(self._answer(writer))
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)
        self._open.discard(writer)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        ok = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
        if self.manner == "hang":
            await asyncio.Event().wait()
        elif self.manner == "reset":
            writer.transport.abort()
        elif self.manner == "5xx":
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        elif self.manner == "picture":
            writer.write(ok + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body)
        else:
            await _send_for_ever(writer, ok, is_slow=self.manner == "drip")
        await writer.drain()


def _is_established(writer: asyncio.StreamWriter) -> bool:
    """As the system knows it: this host may notice much later that the other side has ended it."""
    connection = writer.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return False
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return bool(state == _ESTABLISHED)


async def _send_for_ever(writer: asyncio.StreamWriter, head: bytes, *, is_slow: bool) -> None:
    writer.write(head + b"\r\n\x89PNG\r\n\x1a\n")
    while True:
        writer.write(b"x" if is_slow else b"x" * 65536)
        await writer.drain()
        await asyncio.sleep(1 if is_slow else 0)
