"""Checks of the engine in one process with it: run as a program, because what is native ends the process.

python -m scripts.gpu_smoke.adapter TASK.json
"""

import asyncio
import json
import math
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import torch
from internvl_server.app import create_app
from internvl_server.core import GenerateRequest
from internvl_server.errors import StartupError
from internvl_server.settings.loading import load_settings

from scripts.gpu_smoke.prompts import Messages, parity_prompts, request_kinds
from scripts.gpu_smoke.results import READY, Check, NotRunError, Results, must

__all__ = ["CHECKS", "Task"]

ABORTS = "1,000 aborts"
CHECKS = (
    READY, "executable dtypes", "text", "1 tile", "13 tiles", "64 tiles", "5 pictures", "three rounds",
    "logits", ABORTS,
)  # fmt: skip
_QUANTIZED = {"16 bits": (None, 0), "awq": ("awq", 128), "gptq": ("gptq", 128), "fp8": ("fp8", 128)}
_IDLE_S = 60.0


@dataclass(frozen=True)
class Task:
    """What the program is asked to do: checks by name, settings as one dictionary, where results go."""

    trial: str
    checks: list[str]
    settings: dict[str, Any]
    results: str
    limit_s: float
    dump: str  # gets prompts, pixels and logits, for the comparison with transformers
    num_prompts: int
    num_aborts: int

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


class Adapter:
    """The app with its engine, asked without a socket; remembers what its engine was asked."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._failures: list[StartupError] = []
        self._app = create_app(load_settings(None, task.settings), on_fatal=self._failures.append)
        services = self._app.state.services
        self.engine: Any = services.engine
        self.checkpoint = services.checkpoint
        self._max_seqs = self.engine.info.max_num_seqs
        self._requests: list[GenerateRequest] = []
        generate = self.engine.generate

        def remember(request: GenerateRequest, *rest: Any, **options: Any) -> Any:
            self._requests.append(request)
            return generate(request, *rest, **options)

        self.engine.generate = remember
        self._start = time.monotonic()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        transport = httpx2.ASGITransport(app=self._app)
        async with (
            self._app.router.lifespan_context(self._app),
            httpx2.AsyncClient(
                transport=transport, base_url="http://in-process", timeout=600
            ) as client,
        ):
            self.client = client
            yield

    def checks(self) -> dict[str, Check]:
        kinds = request_kinds(self.checkpoint.tile_px)
        every: dict[str, Check] = {
            READY: self.ready,
            "executable dtypes": self.dtypes,
            **{name: partial(self.request, *kind) for name, kind in kinds.items()},
            "logits": self.logits,
            ABORTS: self.aborts,
        }
        return {name: every[name] for name in self._task.checks}

    async def ready(self) -> str:
        """Loaded, and its trial requests answered: a text, one tile and thirteen, with finite logits."""
        while not self.engine.health().is_ready:
            must(not self._failures, self._failures and self._failures[0].message)
            await asyncio.sleep(0.05)
        return f"loaded and tried in {time.monotonic() - self._start:.1f} s"

    async def dtypes(self) -> str:
        """Which 16-bit types TurboMind multiplies in, for each kind of weights."""
        from lmdeploy.turbomind import converter

        found = {}
        for name, (kind, group) in _QUANTIZED.items():
            formats = converter._build_quantized_formats(kind, group)
            found[name] = sorted(converter._get_executable_dtypes(formats, 0))
        must("float16" in found["16 bits"], f"float16 is missing: {found}")
        return "; ".join(f"{name}: {', '.join(types) or 'none'}" for name, types in found.items())

    async def request(self, messages: Messages, num_tiles: int) -> str:
        """A whole answer with log probabilities, which must be finite; the engine must get all tiles."""
        start = time.monotonic()
        answer = await self.ask(messages, max_tokens=16, logprobs=True, temperature=0)
        took = time.monotonic() - start
        usage, request = answer["usage"], self._requests[-1]
        given = sum(span.num_tiles for span in request.images)
        must(given == num_tiles, f"{given} tiles instead of {num_tiles}")
        must(usage["prompt_tokens"] == len(request.prompt_token_ids), "the prompt's length differs")
        values = [place["logprob"] for place in answer["choices"][0]["logprobs"]["content"]]
        must(values and all(map(math.isfinite, values)), f"log probabilities: {values}")
        return f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens in {took * 1000:.0f} ms"

    async def ask(self, messages: Messages, **fields: Any) -> dict[str, Any]:
        body = {"messages": messages, "model": self.checkpoint.served_name} | fields
        response = await self.client.post("/v1/chat/completions", json=body)
        must(
            response.status_code == HTTPStatus.OK, f"{response.status_code}: {response.text[:200]}"
        )
        return dict(response.json())

    async def logits(self) -> str:
        """The logits after each prompt, written down with the prompt and pixels as TurboMind got them."""
        runtime = self.engine._runtime
        instance = runtime._turbomind.create_instance()
        entries: list[dict[str, Any]] = []
        for messages in parity_prompts(self.checkpoint.tile_px, self._task.num_prompts):
            await self.ask(messages, max_tokens=1, temperature=0)
            request = self._requests[-1]
            images = runtime.multimodal(request)
            row = await _first_logits(instance, 1_000_000 + len(entries), request, images)
            vocab_size = self.checkpoint.config.text.vocab_size
            entries.append(
                {
                    "input_ids": list(request.prompt_token_ids),
                    "pixels": torch.cat([image["pixel_values"] for image in images or ()])
                    if images
                    else None,
                    "logits": row[:vocab_size].float(),
                }
            )
        must(all(entry["logits"].isfinite().all() for entry in entries), "not all are finite")
        torch.save(entries, self._task.dump)
        return f"of {len(entries)} prompts, all finite"

    async def aborts(self) -> str:
        """Half leave in prefill, half in decode; then the engine is empty and answers."""
        messages = request_kinds(self.checkpoint.tile_px)["1 tile"][0]
        await self.ask(messages, max_tokens=1)
        request = replace(self._requests[-1], max_tokens=256, stop_token_ids=frozenset())
        rng, number = random.Random(0), self._task.num_aborts

        async def leave(index: int) -> int:
            left = 0
            async with self.engine.generate(
                replace(request, request_id=f"abort-{index}")
            ) as deltas:
                with suppress(TimeoutError):
                    async with asyncio.timeout(rng.random() * 0.02 if index % 2 else 30):
                        async for _ in deltas:
                            left += 1
                            if left > index % 7:
                                break
            return left

        counts: list[int] = []
        for start in range(0, number, 2 * self._max_seqs):
            batch = range(start, min(start + 2 * self._max_seqs, number))
            counts += await asyncio.gather(*map(leave, batch))
        seconds = await self._idle()
        answer = await self.ask(messages, max_tokens=8, temperature=0)
        must(answer["usage"]["completion_tokens"] >= 1, "no answer afterwards")
        early = sum(count == 0 for count in counts)
        return (
            f"{early} before and {number - early} after their first token; empty in {seconds:.1f} s"
        )

    async def _idle(self) -> float:
        """Seconds until neither the adapter nor TurboMind's scheduler has a request."""
        start = time.monotonic()
        while time.monotonic() - start < _IDLE_S:
            health, metrics = self.engine.health(), self.engine._runtime.scheduler_metrics()
            num_native = metrics.num_active if metrics is not None else 0
            if not (health.num_running or health.num_waiting or num_native):
                return time.monotonic() - start
            await asyncio.sleep(0.05)
        raise AssertionError(
            f"{health.num_running} running, {health.num_waiting} waiting, {num_native} in TurboMind"
        )


async def _first_logits(
    instance: Any, session_id: int, request: GenerateRequest, images: Any
) -> torch.Tensor:
    """The row of logits behind a prompt, by LMDeploy's own entry."""
    from lmdeploy.messages import GenerationConfig

    config = GenerationConfig(max_new_tokens=1, top_k=1, output_logits="generation")
    row = None
    native = instance.async_stream_infer(
        session_id, input_ids=list(request.prompt_token_ids), multimodal=images, gen_config=config,
        stream_output=True,
    )  # fmt: skip
    async for output in native:
        if output.logits is not None:
            row = output.logits[0].clone()
    if row is None:
        raise NotRunError("LMDeploy returned no logits")
    return row


async def main(path: str) -> None:
    task = Task(**json.loads(Path(path).read_text()))
    results = Results(Path(task.results), time.monotonic() + task.limit_s)
    adapter = Adapter(task)
    async with adapter.running():
        checks = adapter.checks()
        if READY in checks:
            await results.run(task.trial, {READY: checks[READY]})
        else:
            await adapter.ready()
        if results.is_passed(task.trial, READY):
            await results.run(task.trial, checks)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
