"""Servers as processes: started on a free port, awaited until they answer, and stopped."""

import asyncio
import atexit
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx2

from scripts.load.streams import Address

__all__ = ["ServerError", "ServerProcess", "free_port", "python"]

_START_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 120.0


class ServerError(Exception):
    """The server has ended, or did not start."""


def free_port() -> int:
    """A port that the system gives to nobody else while this process runs; a server can listen on it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    atexit.register(held.close)
    return int(held.getsockname()[1])


def python(module: str, *arguments: str, stand_in: Sequence[str] | None = None) -> list[str]:
    """The command that runs a module: on the stand-ins for a GPU if there are options of them."""
    before = [] if stand_in is None else ["scripts.stand_in", *stand_in]
    return [sys.executable, "-m", *before, module, *arguments]


class ServerProcess:
    """A server on a free port. A context: it is stopped on leaving.

    Args:
        command: Starts it; `{port}` in a word is replaced.
        log: File that gets what it prints.
        ready_path: Answers 200 once it can serve.
        stderr: Gets its log instead.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        ready_path: str = "/ready",
        stderr: IO[bytes] | None = None,
    ) -> None:
        self._stderr = stderr
        self.port = free_port()
        self._command = [word.replace("{port}", str(self.port)) for word in command]
        self._log = log
        self._url = f"http://127.0.0.1:{self.port}{ready_path}"
        self._start()

    def _start(self) -> None:
        self.started = time.monotonic()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=self._stderr or log, stdin=subprocess.DEVNULL
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> Address:
        return Address(self.port)

    async def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> float:
        """Seconds from the start until it can serve.

        Raises:
            ServerError: It has ended, or takes longer.
        """
        async with httpx2.AsyncClient(timeout=10) as client:
            while time.monotonic() - self.started < timeout_s:
                self.check()
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get(self._url)).status_code == HTTPStatus.OK:
                        return time.monotonic() - self.started
                await asyncio.sleep(0.1)
        raise ServerError(f"not ready after {timeout_s:.0f} s")

    def check(self) -> None:
        """Raise if it has ended, with the end of what it printed."""
        if self.process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()
            raise ServerError(f"exit code {self.process.returncode}: {' '.join(lines[-3:])[-400:]}")

    def restart(self) -> None:
        """Start it again after it has ended."""
        self._start()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal and wait. Returns the exit code and the seconds it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.process.returncode, time.monotonic() - start

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.stop()
