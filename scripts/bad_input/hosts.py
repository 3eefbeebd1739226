"""Hosts on loopback: one that behaves as a case says, and sentinels that nobody may connect to."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scripts.bad_input.pictures import sample_png
from scripts.bad_input.texts import text_of

__all__ = ["Hosts"]

ALLOWED_ADDRESS = "127.0.0.2"
_HOLD_S = 60.0


class Hosts:
    """All listeners, in a thread with an event loop. A context.

    The media host answers `/c/NUMBER` with the steps of a case, `/to/STATUS/URL` with a redirect, `/loop`
    with one to itself, and other paths that end in `.png` with a picture. Steps are texts in latin-1, in
    which `{png}` and `{length}` are replaced, or

    - `{"wait": seconds}`, `{"hold": true}`: nothing for that long, or until the end,
    - `{"drip": [text, seconds]}`: one byte after another,
    - `{"endless": text}`: the text until the other side closes,
    - `{"reset": true}`: the end, as a reset.

    Attributes:
        num_forbidden: Connections to the sentinels, which listen on all addresses.
        ports: Of `media`, `silent`, `tls` and `sentinel`; nobody listens at `closed`.
    """

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        self.ports = dict(ports)
        self.num_forbidden = 0
        self.steps: dict[str, list[Any]] = {}
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[Any] | None] = set()

    def __enter__(self) -> "Hosts":
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        for name, serve in (("media", self._serve), ("silent", self._keep_silent)):
            await asyncio.start_server(serve, ALLOWED_ADDRESS, self.ports[name])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(self._folder))
        await asyncio.start_server(self._serve, ALLOWED_ADDRESS, self.ports["tls"], ssl=context)
        for address in ("0.0.0.0", "::"):
            with contextlib.suppress(OSError):  # a machine without IPv6
                await asyncio.start_server(self._forbid, address, self.ports["sentinel"])
        await asyncio.start_unix_server(self._forbid, self._folder / "sentinel.sock")

    async def _stop(self) -> None:
        for task in self._tasks:
            if task is not None:
                task.cancel()
        await asyncio.sleep(0.05)

    async def _forbid(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_forbidden += 1
        writer.write(_answer())
        writer.close()

    async def _keep_silent(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(_HOLD_S)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode("latin-1")
            for step in self._steps_of(path.partition("?")[0]):
                await _take(step, writer)
        writer.close()

    def _steps_of(self, path: str) -> list[Any]:
        if path == "/loop":
            path = "/to/302//loop"
        if path.startswith("/to/"):
            status, _, url = path[4:].partition("/")
            return [
                f"HTTP/1.1 {status} Moved\r\nLocation: {unquote(url)}\r\nContent-Length: 0\r\n\r\n"
            ]
        if path.startswith("/c/"):
            return self.steps[path[3:]]
        if path.endswith(".png"):
            return [_answer().decode("latin-1")]
        return ["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]


async def _take(step: Any, writer: asyncio.StreamWriter) -> None:
    if not isinstance(step, dict):
        png = sample_png()
        text = text_of(step).replace("{length}", str(len(png)))
        writer.write(text.replace("{png}", png.decode("latin-1")).encode("latin-1"))
    elif "drip" in step:
        text, pause_s = step["drip"]
        for character in text_of(text):
            writer.write(character.encode("latin-1"))
            await writer.drain()
            await asyncio.sleep(pause_s)
    elif "endless" in step:
        while not writer.is_closing():
            writer.write(text_of(step["endless"]).encode("latin-1"))
            await writer.drain()
    elif "reset" in step:
        writer.transport.abort()
    else:
        await asyncio.sleep(step.get("wait", _HOLD_S))
    await writer.drain()


def _answer() -> bytes:
    body = sample_png()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _certificate(folder: Path) -> Path:
    """A certificate that nobody trusts."""
    file = folder / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=corpus.test",
    ]
    subprocess.run(
        [*command, "-keyout", file, "-out", folder / "c.pem"], check=True, capture_output=True
    )
    file.write_bytes(file.read_bytes() + (folder / "c.pem").read_bytes())
    return file
