"""A host of pictures, whose addresses say what each is: `/WIDTHxHEIGHT/NUMBER/BYTES.jpg`."""

import asyncio
import re
from types import TracebackType

from scripts.load.bodies import picture_file

__all__ = ["MediaHost"]

_PATH = re.compile(rb"GET /(\d+)x(\d+)/(\d+)/(\d+)\.jpg ")


class MediaHost:
    """Listens on a port of a loopback address that the server must be allowed to fetch from. A context."""

    HOST = "127.0.0.2"

    async def __aenter__(self) -> "MediaHost":
        self._server = await asyncio.start_server(self._serve, self.HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    def settings(self) -> dict[str, object]:
        """Those of the `media` section that let a server fetch from here."""
        return {
            "allowed_private_networks": [f"{self.HOST}/32"],
            "allowed_ports": [80, 443, self.port],
        }

    def url(self, width: int, height: int, number: int, num_bytes: int = 0) -> str:
        """The address of a picture; see `picture_file`."""
        return f"http://{self.HOST}:{self.port}/{width}x{height}/{number}/{num_bytes}.jpg"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = _PATH.match(head)
            body = picture_file(*map(int, found.groups())) if found else b""
            status = b"200 OK" if found else b"404 Not Found"
            kind = b"image/jpeg" if found else b"text/plain"
            writer.write(
                b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
                % (status, kind, len(body), body)
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the server has left
        finally:
            writer.close()
