"""A plain OpenAI-compatible server of a few lines, whose answers and delays are scripted.

Has no `/tokenize`, and sends usage unless told otherwise. Run as a program it makes a token each STEP_MS:

    python -m scripts.load.openai_stub PORT STEP_MS
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stub:
    """What it answers: a chunk after each delay, or with `step_s` as many as the request asks for.

    `status_of` gets the number of a request, from 0.
    """

    delays_s: tuple[float, ...] = (0.02, 0.01, 0.01)
    step_s: float = 0.0
    has_usage: bool = True
    status_of: Callable[[int], int] = lambda _: 200
    is_cut: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                await self._answer(head.split(b" ", 2)[1], await reader.readexactly(length), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: bytes, data: bytes, writer: asyncio.StreamWriter) -> None:
        if path == b"/v1/models":
            return _write(writer, 200, {"object": "list", "data": [{"id": "stub"}]})
        if path != b"/v1/chat/completions":
            return _write(writer, 404, {"detail": "Not Found"})
        body = json.loads(data)
        status = self.status_of(len(self.bodies))
        self.bodies.append(body)
        if status != 200:
            error = {"error": {"message": "scripted", "code": f"scripted_{status}"}}
            return _write(writer, status, error)
        delays_s = (self.step_s,) * body["max_tokens"] if self.step_s else self.delays_s
        usage = {"prompt_tokens": 11, "completion_tokens": len(delays_s)}
        if body["stream"]:
            return await self._stream(writer, delays_s, usage)
        await asyncio.sleep(sum(delays_s))
        message = {"role": "assistant", "content": "w" * len(delays_s)}
        counted = {"usage": usage} if self.has_usage else {}
        return _write(writer, 200, {"choices": [{"index": 0, "message": message}], **counted})

    async def _stream(
        self, writer: asyncio.StreamWriter, delays_s: tuple[float, ...], usage: dict[str, int]
    ) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for delay_s in delays_s:
            await asyncio.sleep(delay_s)
            _event(writer, {"choices": [{"index": 0, "delta": {"content": "w"}}]})
        if self.is_cut:
            writer.write(b"0\r\n\r\n")
            return
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if self.has_usage:
            _event(writer, {"choices": [], "usage": usage})
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    _chunk(writer, b"data: " + json.dumps(value).encode() + b"\n\n")


def _write(writer: asyncio.StreamWriter, status: int, value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)


@asynccontextmanager
async def listening(stub: Stub, port: int = 0) -> AsyncIterator[Stub]:
    server = await asyncio.start_server(stub.serve, "127.0.0.1", port)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()


async def main(port: int, step_ms: float) -> None:
    async with listening(Stub(step_s=step_ms / 1000), port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
