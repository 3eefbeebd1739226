"""Our server, watched: run as a program.

    python -m scripts.load.watch.program [--leak] serve …

The app is wrapped from outside, in a middleware that answers `GET /watch` with what the process holds. With
`--leak` the middleware keeps a megabyte of every hundred requests, which whoever watches must find.
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
_LEAK_BYTES, _LEAK_REQUESTS = 1 << 20, 100
# Of these, a server without requests has none but those of the request that asks.
_CLASSES = frozenset({"EventStream", "GenerateRequest", "Generation", "RequestResponseCycle"})


class Watch:
    """ASGI middleware; see this module's docstring."""

    def __init__(self, app: ASGIApp, *, is_leaking: bool = False) -> None:
        self._app = app
        self._is_leaking = is_leaking
        self._num_requests = 0
        self._leaked: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            await JSONResponse(_state())(scope, receive, send)
            return
        self._num_requests += scope["type"] == "http"
        if self._is_leaking and self._num_requests % _LEAK_REQUESTS == 0:
            self._leaked.append(os.urandom(_LEAK_BYTES))  # zeros would take no memory
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
    arguments = sys.argv[1:]
    is_leaking = arguments[:1] == ["--leak"]
    create = app.create_app

    def watched(*args: Any, **options: Any) -> FastAPI:
        made = create(*args, **options)
        made.add_middleware(Watch, is_leaking=is_leaking)
        return made

    with mock.patch.object(run, "create_app", watched):
        return cli.main(arguments[1:] if is_leaking else arguments)


if __name__ == "__main__":
    sys.exit(main())
