"""Sends one request and takes the time of every chunk of its answer."""

import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import httpx2
from pydantic_core import from_json, to_json

from internvl_server.bench.datasets.base import Prompt
from internvl_server.bench.measures import Outcome, Record
from internvl_server.bench.wire import Endpoint, error_of

__all__ = ["Client", "EventReader", "open_http"]

_CONNECT_TIMEOUT_S = 10.0
_KEEP_ALIVE_S = 4.0  # less than servers keep idle connections, so that none is reused as it closes
_MAX_MESSAGE = 500
_OK = 200


def open_http(
    base_url: str, headers: Mapping[str, str], *, verify: bool = True
) -> httpx2.AsyncClient:
    """A client whose number of connections nothing bounds but the load; an answer may take any time."""
    return httpx2.AsyncClient(
        base_url=base_url,
        headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **headers},
        timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        transport=_Connections(httpx2.create_ssl_context(verify=verify, trust_env=False)),
        trust_env=False,
    )


class _Connections(httpx2.AsyncBaseTransport):
    """One transport for each request in flight, the last one used first.

    The pool of a single transport looks through all of its connections for every request, which takes the
    client's time where there are hundreds.
    """

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context
        self._free: list[httpx2.AsyncHTTPTransport] = []
        self._every: list[httpx2.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request on a connection that no other request uses."""
        transport = self._free.pop() if self._free else self._new()
        give_back = partial(self._free.append, transport)
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            give_back()
            raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Stream(response.stream, give_back)
        return response

    def _new(self) -> httpx2.AsyncHTTPTransport:
        limits = httpx2.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_S)
        self._every.append(httpx2.AsyncHTTPTransport(verify=self._ssl_context, limits=limits))
        return self._every[-1]

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._every:
            await transport.aclose()


class _Stream(httpx2.AsyncByteStream):
    """A body that calls `on_close` when it has been closed, once."""

    def __init__(self, body: httpx2.AsyncByteStream, on_close: Callable[[], None]) -> None:
        self._body, self._on_close = body, on_close
        self._is_open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body.__aiter__()

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        finally:
            if self._is_open:
                self._is_open = False
                self._on_close()


class EventReader:
    """Splits a stream of bytes into the data of server-sent events, whatever the pieces it comes in."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that `piece` completes. Comments have none."""
        blocks = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        self._rest = blocks.pop()
        for block in blocks:
            lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


class Client:
    """Sends prompts to one endpoint of one server.

    Args:
        http: An open client; its base address is the server's without `/v1`.
        endpoint: Which endpoint.
        model: Name of the model.
        fields: Further members of every body.
        stream: Whether answers are streamed.
        keeps_text: Whether records keep the answers.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        endpoint: Endpoint,
        model: str,
        fields: Mapping[str, Any] | None = None,
        *,
        stream: bool = True,
        keeps_text: bool = False,
    ) -> None:
        self.http, self.endpoint, self.model = http, endpoint, model
        self.fields = dict(fields or {})
        self._stream, self._keeps_text = stream, keeps_text

    def encode(self, prompt: Prompt) -> bytes:
        """The body of a prompt.

        Raises:
            ValueError: The endpoint cannot take it.
        """
        body = self.endpoint.body(prompt, self.model, self.fields, stream=self._stream)
        return to_json(body)

    async def send(self, prompt: Prompt, record: Record) -> None:
        """Send a prompt and fill in its record. Failures are in the record; a cancellation passes."""
        body = self.encode(prompt)
        record.text_tokens = prompt.num_tokens or 0
        record.sent_s = time.perf_counter()
        try:
            async with self.http.stream("POST", self.endpoint.path, content=body) as response:
                record.status = response.status_code
                await self._read(response, record)
        except (httpx2.HTTPError, httpx2.StreamError, ValueError) as err:
            _fail(record, type(err).__name__, str(err))

    async def _read(self, response: httpx2.Response, record: Record) -> None:
        if response.status_code != _OK:
            _fail(record, *_refusal(await response.aread()))
        elif "text/event-stream" in response.headers.get("content-type", ""):
            await self._read_events(response, record)
        else:
            self._take(await response.aread(), record, time.perf_counter(), is_whole=True)
            record.outcome = Outcome.COMPLETED if not record.code else Outcome.FAILED

    async def _read_events(self, response: httpx2.Response, record: Record) -> None:
        reader = EventReader()
        async for piece in response.aiter_raw():
            now = time.perf_counter()
            for data in reader.feed(piece):
                if self._take(data, record, now) and record.outcome == Outcome.ABORTED:
                    record.outcome = Outcome.COMPLETED
        if record.outcome == Outcome.COMPLETED and not record.chunk_s and not record.output_tokens:
            _fail(record, "empty_answer", "the answer has no text and no tokens")
        if record.outcome == Outcome.ABORTED:
            _fail(record, "cut_stream", "the stream ended without its last event")

    def _take(self, data: bytes, record: Record, now: float, *, is_whole: bool = False) -> bool:
        """Note what one event says. Returns whether it is the last."""
        chunk = self.endpoint.parse(data)
        if chunk.error is not None:
            _fail(record, *chunk.error)
            return True
        if chunk.is_part:
            record.ended_s = now
        if chunk.text and not is_whole:
            record.chunk_s.append(now)
        if chunk.usage is not None:
            record.input_tokens, record.output_tokens = chunk.usage.input, chunk.usage.output
            record.cached_tokens = chunk.usage.cached
        if self._keeps_text:
            record.text += chunk.text
        return chunk.is_last


def _fail(record: Record, code: str, message: str) -> None:
    record.outcome = Outcome.FAILED
    record.code, record.message = code or "unknown", message[:_MAX_MESSAGE]
    record.ended_s = time.perf_counter()


def _refusal(body: bytes) -> tuple[str, str]:
    """Code and message of the body of a refusal, which may be anything."""
    try:
        value = from_json(body)
    except ValueError:
        return "", body.decode(errors="replace")
    return error_of(value.get("error", value) if isinstance(value, dict) else value)
