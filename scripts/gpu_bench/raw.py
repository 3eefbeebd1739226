"""LMDeploy's pipeline without a server, `async_stream_infer`: a program that measures itself.

    python -m scripts.gpu_bench.raw SETTINGS.json

Each line of its input is JSON: `bodies` (chat requests) and `clients`. Their tokens and pixels are prepared
first, by our pipeline, and not measured. The answer is a line that begins with `RESULT`.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

import httpx2
from fastapi import FastAPI
from internvl_server.app import create_app
from internvl_server.core import GenerateRequest
from internvl_server.errors import EngineUnavailableError, StartupError

from scripts.load.lmdeploy_server import read_settings
from scripts.load.rounds import closed_loop
from scripts.load.streams import Timing

__all__ = ["MARK"]

MARK = "RESULT "


class Pipeline:
    """The engine of an app, and the requests that this app would make of HTTP bodies."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._engine: Any = app.state.services.engine
        self._recorded: list[GenerateRequest] = []
        self._sessions = iter(range(1_000_000, 1_000_000_000))
        self._instances: list[Any] = []

    async def wait_ready(self, failures: list[StartupError]) -> None:
        while not self._engine.health().is_ready:
            if failures:
                raise failures[0]
            await asyncio.sleep(0.05)
        self._engine.generate = self._record

    def _record(self, request: GenerateRequest, *_: Any, **__: Any) -> Any:
        """Instead of the engine's `generate`: keep the request and refuse it."""
        self._recorded.append(request)
        raise EngineUnavailableError("recorded")

    async def prepare(self, bodies: list[str]) -> list[tuple[GenerateRequest, Any]]:
        """Requests with their images as TurboMind takes them."""
        transport = httpx2.ASGITransport(app=self._app)
        prepared = []
        async with httpx2.AsyncClient(transport=transport, base_url="http://raw") as client:
            for body in bodies:
                self._recorded.clear()
                answer = await client.post(
                    "/v1/chat/completions",
                    content=body,
                    headers={"content-type": "application/json"},
                )
                if not self._recorded:
                    raise ValueError(f"not prepared: {answer.text[:300]}")
                [request] = self._recorded
                prepared.append((request, self._engine._runtime.multimodal(request)))
        return prepared

    async def send(self, prepared: tuple[GenerateRequest, Any]) -> Timing:
        """Run a request on a native handle and time its tokens."""
        from internvl_server.engine.turbomind.sampling import generation_config

        request, images = prepared
        instance = self._instances.pop() if self._instances else self._new_instance()
        timing = Timing(status=200, prompt_tokens=len(request.prompt_token_ids))
        start = last = time.perf_counter()
        native = instance.async_stream_infer(
            next(self._sessions), input_ids=list(request.prompt_token_ids), multimodal=images,
            gen_config=generation_config(request), stream_output=True,
        )  # fmt: skip
        async for output in native:
            if not output.token_ids:
                continue
            now = time.perf_counter()
            if timing.first_s is None:
                timing.first_s = now - start
            else:
                timing.gaps.append(now - last)
            last = now
            timing.num_frames += 1
            timing.completion_tokens += len(output.token_ids)
        timing.total_s = time.perf_counter() - start
        timing.is_complete = timing.completion_tokens > 0
        self._instances.append(instance)
        return timing

    def _new_instance(self) -> Any:
        return self._engine._runtime._turbomind.create_instance()


async def main(path: str) -> None:
    failures: list[StartupError] = []
    app = create_app(read_settings(path), on_fatal=failures.append)
    async with app.router.lifespan_context(app):
        pipeline = Pipeline(app)
        await pipeline.wait_ready(failures)
        print(MARK + "{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            task = json.loads(line)
            prepared = await pipeline.prepare(task["bodies"])
            found = await closed_loop(pipeline.send, prepared, task["clients"], pid=os.getpid())
            print(MARK + json.dumps(found.as_dict()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
