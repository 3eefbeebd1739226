"""Our server, watched: run as a program.

    python -m scripts.load.watch.program [--leak MIB] serve …

The app is wrapped from outside, in a middleware that answers `GET /watch` with what the process holds. With
`--leak` the middleware keeps so much of every hundred requests, which whoever watches must find.
"""

import asyncio
import gc
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

from fastapi import FastAPI
from internvl_server import app, cli
from internvl_server.serve import run
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["PATH", "Watch"]

PATH = "/watch"
_LEAK_REQUESTS = 100
# Of these, a server without requests has none but those of the request that asks.
_CLASSES = frozenset({"EventStream", "GenerateRequest", "Generation", "RequestResponseCycle"})


class Watch:
    """ASGI middleware; see this module's docstring."""

    def __init__(self, app: ASGIApp, *, leak_bytes: int = 0) -> None:
        self._app = app
        self._leak_bytes = leak_bytes
        self._num_requests = 0
        self._leaked: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            await JSONResponse(_state())(scope, receive, send)
            return
        self._num_requests += scope["type"] == "http"
        if self._leak_bytes and self._num_requests % _LEAK_REQUESTS == 0:
            self._leaked.append(os.urandom(self._leak_bytes))  # zeros would take no memory
        await self._app(scope, receive, send)


def _state() -> dict[str, int]:
    gc.collect()
    objects = Counter(type(thing).__name__ for thing in gc.get_objects())
    pooled = {thread for thread in threading.enumerate() if _is_pooled(thread)}
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count() - len(pooled),
        "pooled_threads": len(pooled),
        "objects": sum(objects[name] for name in _CLASSES),
    }


def _is_pooled(thread: threading.Thread) -> bool:
    """Whether it is one of a bounded number that an executor starts when it needs them, and keeps."""
    target: Any = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") == ThreadPoolExecutor.__module__


def main() -> int:
    arguments, leak_bytes = sys.argv[1:], 0
    if arguments[:1] == ["--leak"]:
        leak_bytes = int(arguments[1]) << 20
        arguments = arguments[2:]
    create = app.create_app

    def watched(*args: Any, **options: Any) -> FastAPI:
        made = create(*args, **options)
        made.add_middleware(Watch, leak_bytes=leak_bytes)
        return made

    with mock.patch.object(run, "create_app", watched):
        return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
