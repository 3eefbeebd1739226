"""One GET request to a given address, with limits on the head and the framing of the answer.

llhttp parses the answer, because a parser in Python would hold up the event loop with heads of many headers.
"""

import asyncio
import ssl
from dataclasses import dataclass

import httptools

from internvl_server.media.sources.url_policy import Address, FetchUrl

__all__ = ["Exchange", "ExchangeError", "connect"]

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 256
_READ_BYTES = 65_536


class ExchangeError(Exception):
    """The host's answer is not HTTP, is cut off, or has too many headers or too much framing."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """An open connection to a host. `close` it after use."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answer: "_Answer"

    @property
    def status(self) -> int:
        """Status of the answer, after `send`."""
        return self.answer.status

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer by their names in lower case; the values of equal names are joined."""
        return self.answer.headers

    @property
    def has_answer(self) -> bool:
        """Whether a byte of the answer has arrived."""
        return self.answer.num_bytes > 0

    @property
    def declared_bytes(self) -> int | None:
        """Number of bytes that the body has by its head, if that says it."""
        declared = self.headers.get("content-length")
        return None if declared is None else int(declared)

    async def send(self, target: FetchUrl, accept: str) -> None:
        """Send the request and read the head of the answer.

        Raises:
            ExchangeError, OSError: There is no answer, or it is not HTTP.
        """
        self.writer.write(
            f"GET {target.target} HTTP/1.1\r\nHost: {target.authority}\r\nUser-Agent: internvl-server\r\n"
            f"Accept: {accept}\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n".encode(
                "ascii"
            )
        )
        while not self.answer.has_head:
            await self._read()

    async def read_body(self, max_bytes: int) -> bytes | None:
        """The body, or None if it has more than `max_bytes` bytes.

        Raises:
            ExchangeError, OSError: It is cut off.
        """
        if (self.declared_bytes or 0) > max_bytes:
            return None
        while not self.answer.is_complete and len(self.answer.body) <= max_bytes:
            await self._read()
        return bytes(self.answer.body) if len(self.answer.body) <= max_bytes else None

    async def _read(self) -> None:
        data = await self.reader.read(_READ_BYTES)
        if data:
            self.answer.feed(data)
        else:
            self.answer.feed_eof()

    def close(self) -> None:
        """Close the connection at once, also during a TLS handshake, and drop the body."""
        self.writer.transport.abort()
        self.answer.drop()


async def connect(
    ip: Address, target: FetchUrl, context: ssl.SSLContext, timeout_s: float
) -> Exchange:
    """Connect to the address `ip`; the name is only for TLS.

    Raises:
        OSError: The address does not accept the connection, in time (`TimeoutError`), or its certificate is
            not the host's.
    """
    is_tls = target.scheme == "https"
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(
            str(ip),
            target.port,
            ssl=context if is_tls else None,
            server_hostname=target.host if is_tls else None,
        )
    return Exchange(reader, writer, _Answer())


class _Answer:
    """Collects what llhttp reports of an answer, and nothing of what follows it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.has_head = self.is_complete = False
        self._num_headers = 0
        self.num_bytes = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)

    def drop(self) -> None:
        """Free the body. The parser refers to this object, so that the collector would have to find both."""
        self.body = bytearray()
        self._parser = None

    def feed(self, data: bytes) -> None:
        self.num_bytes += len(data)
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as err:
            if not self.is_complete:  # what follows the answer is not read
                raise ExchangeError("The answer is not HTTP.") from err
        # Chunks of one byte have six times as many bytes of framing.
        if self.num_bytes > MAX_HEAD_BYTES + 2 * len(self.body):
            raise ExchangeError("The answer's head or framing is too large.")

    def feed_eof(self) -> None:
        is_sized = {"content-length", "transfer-encoding"} & self.headers.keys()
        if not self.has_head or is_sized:
            raise ExchangeError("The answer is cut off.")
        self.is_complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        if self._num_headers > MAX_HEADERS:
            raise ExchangeError("The answer has too many headers.")
        if not self.has_head:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.is_complete:
            return
        self.status = self._parser.get_status_code()
        self.has_head = self.status >= 200  # noqa: PLR2004  (others announce an answer)
        if not self.has_head:
            self.headers.clear()

    def on_body(self, body: bytes) -> None:
        if not self.is_complete:
            self.body += body

    def on_message_complete(self) -> None:
        self.is_complete |= self.has_head
