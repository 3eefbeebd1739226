"""Our server with faults that only exist inside of a process: run as a program.

    python -m scripts.injections.program [--clock] serve …

`GET /gauges` answers with what the server holds. Names that end in `.fault` resolve as they say: `many`,
`slow`, `failing`, or else to 127.0.0.2. With `--clock` the wall clock jumps by an hour, to and fro, each
second.
"""

import asyncio
import gc
import socket
import sys
import threading
import time
from typing import Any
from unittest import mock

from fastapi import FastAPI
from internvl_server import app, cli
from internvl_server.serve import run
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HOST", "Gauges"]

HOST = "127.0.0.2"
_SLOW_S = 5.0
_resolve = socket.getaddrinfo
_time = time.time


class Gauges:
    """ASGI middleware; see this module's docstring."""

    def __init__(self, app: ASGIApp, made: FastAPI) -> None:
        self._app, self._made = app, made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/gauges":
            await JSONResponse(self._read())(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _read(self) -> dict[str, int]:
        gc.collect()
        services = self._made.state.services
        health = services.engine.health()
        return {
            "in_flight": services.gate.num_in_flight,
            "running": health.num_running,
            "waiting": health.num_waiting,
            "tasks": len(asyncio.all_tasks()),
        }


def _faulty_resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
    if not isinstance(host, str) or not host.endswith(".fault"):
        return _resolve(host, port, *args, **options)
    if host.startswith("slow"):
        time.sleep(_SLOW_S)
    if host.startswith("failing"):
        raise socket.gaierror(socket.EAI_AGAIN, "the name server failed")
    number = 1000 if host.startswith("many") else 1
    one = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, port))
    return [one] * number


def _jump() -> None:
    """Move the wall clock for ever."""
    offset = 0.0

    def jumping() -> float:
        return _time() + offset

    with mock.patch.object(time, "time", jumping):
        while True:
            threading.Event().wait(1)
            offset = 0.0 if offset else 3600.0


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[0] == "--clock":
        threading.Thread(target=_jump, daemon=True).start()
        arguments = arguments[1:]
    create = app.create_app

    def observed(*args: Any, **options: Any) -> FastAPI:
        made = create(*args, **options)
        made.add_middleware(Gauges, made=made)
        return made

    with (
        mock.patch.object(run, "create_app", observed),
        mock.patch("socket.getaddrinfo", _faulty_resolve),
    ):
        return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
