"""The least that a stream over HTTP costs here: a bare ASGI app under uvicorn, which sends prepared frames.

python -m scripts.side_by_side.floor PORT STEP_MS
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

__all__ = ["Floor"]

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_FRAME = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk",'
    b'"created":1700000000,"model":"model","choices":[{"index":0,"delta":{"content":" the"},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)
_USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":0}}\n\n'
)


class Floor:
    """All streams get their next frame in one step of the event loop, as from an engine."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._next: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        self._task = self._task or asyncio.create_task(self._tick())
        num_frames = json.loads(await _body(receive) or b"{}").get("max_tokens", 0)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        for _ in range(num_frames):
            await self._next.wait()
            await send({"type": "http.response.body", "body": _FRAME, "more_body": True})
        end = _USAGE % num_frames + b"data: [DONE]\n\n"
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._step_s)
            self._next.set()
            self._next = asyncio.Event()


async def _body(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def main(port: str, step_ms: str) -> None:
    app = Floor(float(step_ms) / 1000)
    uvicorn.run(app, port=int(port), loop="uvloop", log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
