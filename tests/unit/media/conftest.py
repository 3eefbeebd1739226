"""Image files, settings and a stub host for the media tests; no network beyond loopback."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from internvl_server.core import Detail, ImageReference
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.settings import MediaSettings
from PIL import Image

PARAM = "messages[0].content[1].image_url"


def make_image(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """A smooth colourful RGB picture, different in every corner."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    with io.BytesIO() as file:
        image.save(file, image_format, **options)
        return file.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def reference(
    url: str, *, detail: Detail = Detail.AUTO, max_tiles: int | None = None, param: str = PARAM
) -> ImageReference:
    return ImageReference(url=url, detail=detail, max_tiles=max_tiles, param=param)


def tokens(most: int, num_earlier: int = 0) -> ImageBudget:
    """A budget of tokens, all of them shared."""
    return ImageBudget(max_tokens=most, shared_tokens=most, num_earlier=num_earlier)


Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class StubHost:
    """A loopback HTTP host that answers each request head with what a test gives it."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.num_connections = 0
        self.port = 0
        self.answer: Answer = self.send(b"")
        self._tasks: set[asyncio.Task[None] | None] = set()

    @staticmethod
    def send(*chunks: bytes) -> Answer:
        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()

        return answer

    def reply(self, body: bytes, *headers: str, status: str = "200 OK") -> None:
        """Answer with a whole response; Content-Length is right unless a header says otherwise."""
        names = {header.split(":")[0].lower() for header in headers}
        lines = [f"HTTP/1.1 {status}", *headers]
        if not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        self.answer = self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def url(self, path: str = "/image.png") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._tasks.add(asyncio.current_task())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            await self.answer(head, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def stop(self) -> None:
        for task in self._tasks:
            if task is not None:
                task.cancel()


@pytest.fixture
async def host() -> AsyncIterator[StubHost]:
    stub = StubHost()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    stub.port = server.sockets[0].getsockname()[1]
    yield stub
    stub.stop()
    server.close()
    await server.wait_closed()


@pytest.fixture
def settings(host: StubHost) -> MediaSettings:
    """Settings that let the stub host be fetched from."""
    return MediaSettings(
        allowed_private_networks=("127.0.0.0/8",),
        allowed_ports=(80, 443, host.port),
        num_workers=1,
        cache_bytes=0,
    )
