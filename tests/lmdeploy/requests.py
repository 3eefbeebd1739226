"""Requests and how their answers are read."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from internvl_server.core import GenerateRequest, ImageSpan, PixelType, PixelValues, SamplingParams
from internvl_server.engine.turbomind.engine import TurbomindEngine

END = 322  # <|im_end|> of the tiny tokenizer
STOPS = frozenset({320, END})  # with <|endoftext|>: the checkpoint's own
IMAGE = 344  # <IMG_CONTEXT>
TILE_PX, TOKENS_PER_TILE = 56, 4


def make_request(
    token_ids: tuple[int, ...] = (1, 2, 3), *, max_tokens: int = 16, tiles: tuple[int, ...] = (),
    name: str = "r", stop: frozenset[int] = STOPS, pixel_type: PixelType = PixelType.BFLOAT16,
    **sampling: Any,
) -> GenerateRequest:  # fmt: skip
    """`tiles`: one image each, appended to the prompt."""
    ids, spans = list(token_ids), []
    for number, num_tiles in enumerate(tiles):
        num_tokens = num_tiles * TOKENS_PER_TILE
        spans.append(ImageSpan(len(ids), num_tiles, num_tokens, bytes([number + 1]) * 32))
        ids += [IMAGE] * num_tokens + [9]
    rng = np.random.default_rng(0)
    pixels = tuple(_pixels(rng, num_tiles, pixel_type) for num_tiles in tiles)
    return GenerateRequest(
        name, tuple(ids), max_tokens, SamplingParams(**sampling), stop, tuple(spans),
        pixels,
    )  # fmt: skip


def _pixels(rng: np.random.Generator, num_tiles: int, pixel_type: PixelType) -> PixelValues:
    values = rng.standard_normal((num_tiles, 3, TILE_PX, TILE_PX)).astype(np.float16)
    return values.view(pixel_type.storage)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def answer(
    engine: TurbomindEngine, request: GenerateRequest, token_ids: list[int] | None = None
) -> tuple[list[int], str | None]:
    """The ids of an answer, and why it ended; `token_ids` gets the ids as they are read."""
    token_ids = [] if token_ids is None else token_ids
    reason = None
    async with engine.generate(request) as deltas:
        async for delta in deltas:
            token_ids += delta.token_ids
            reason = delta.finish_reason
    return token_ids, reason
