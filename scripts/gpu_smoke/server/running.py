"""A server under trial, and how the checks ask it."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx2

from scripts.gpu_smoke.results import must
from scripts.load.servers import ServerProcess

__all__ = ["Running", "Streamed"]

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Streamed:
    """A streamed answer, or the part of it that was read."""

    text: str
    finish_reason: str | None
    completion_tokens: int


@dataclass
class Running:
    """A started server with its client and the facts that checks need."""

    process: ServerProcess
    client: httpx2.AsyncClient
    tile_px: int
    max_model_len: int
    max_num_seqs: int
    drain_s: float
    num_aborts: int = 300
    model: str = "model"
    speed: float = 0.0  # tokens a second of 64 streams, before others were left
    mixed_streams: int = 64
    is_timed: bool = True  # whether speed is judged; that of a stand-in is the machine's

    async def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        return await self.client.post(path, json={"model": self.model} | body)

    async def ask(self, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """A whole answer, greedy unless the fields say otherwise."""
        body = {"messages": messages, "max_tokens": 64, "temperature": 0} | fields
        response = await self.post(CHAT, body)
        must(
            response.status_code == HTTPStatus.OK, f"{response.status_code}: {response.text[:200]}"
        )
        return dict(response.json())

    async def stream(
        self, leave_after: int = -1, *, on_begin: Callable[[], None] = lambda: None, **body: Any
    ) -> Streamed:
        """A streamed answer to its end, or until so many chunks have come; the first calls `on_begin`."""
        text, reason, num_tokens, num_chunks = "", None, 0, 0
        body = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | body
        async with self.client.stream("POST", CHAT, json=body) as response:
            if response.status_code != HTTPStatus.OK:
                await response.aread()
                raise AssertionError(f"{response.status_code}: {response.text[:200]}")
            async for chunk in _chunks(response):
                must("error" not in chunk, f"it ended with {chunk.get('error')}")
                num_chunks += 1
                if num_chunks == 1:
                    on_begin()
                if num_chunks == leave_after:
                    return Streamed(text, None, 0)
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
                num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
        must(reason in ("stop", "length"), f"it ended with {reason} after {num_tokens} tokens")
        return Streamed(text, reason, num_tokens)


async def _chunks(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])
