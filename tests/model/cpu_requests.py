"""Requests for the CPU engine's tests, and how to run them."""

from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.core import GenerateRequest, ImageSpan, SamplingParams
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.cpu.engine import CpuEngine
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import CpuSettings, ModelSettings


def read_checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(ModelSettings(path=str(folder)))


def read_tokens(checkpoint: Checkpoint) -> Vocabulary:
    tokenizer = load_tokenizer(checkpoint.path)
    return tokenizer.vocabulary


@asynccontextmanager
async def running_engine(
    checkpoint: Checkpoint,
    *,
    tokens: Vocabulary | None = None,
    max_num_seqs: int = 16,
    max_model_len: int = 1024,
    **settings,
):
    engine = CpuEngine(
        checkpoint,
        CpuSettings(**settings),
        tokens or read_tokens(checkpoint),
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def make_request(
    checkpoint: Checkpoint,
    tiles: Sequence[int] = (),
    *,
    seed: int = 0,
    max_tokens: int = 16,
    num_text: int = 20,
    stop_token_ids: Sequence[int] = (),
    **sampling,
) -> GenerateRequest:
    """Random text with one image for each entry of `tiles`, which has so many; greedy by default."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    spans, pixels = [], []
    for num_tiles in tiles:
        ids += rng.integers(0, 300, size=5).tolist()
        num_image_tokens = num_tiles * checkpoint.num_tokens_per_tile
        spans.append(ImageSpan(len(ids), num_tiles, num_image_tokens))
        ids += [checkpoint.image_token_id] * num_image_tokens
        shape = (num_tiles, 3, checkpoint.tile_px, checkpoint.tile_px)
        pixels.append(rng.standard_normal(shape, dtype=np.float32))
    ids += rng.integers(0, 300, size=num_text).tolist()
    return GenerateRequest(
        request_id=f"request-{seed}",
        prompt_token_ids=tuple(ids),
        max_tokens=max_tokens,
        sampling=SamplingParams(**{"temperature": 0.0, **sampling}),
        stop_token_ids=frozenset(stop_token_ids),
        images=tuple(spans),
        pixel_values=tuple(pixels),
    )


async def answer(engine: CpuEngine, request: GenerateRequest) -> tuple[list[int], str | None]:
    """All token ids of an answer, and why it ended."""
    token_ids: list[int] = []
    reason = None
    async with engine.generate(request) as deltas:
        async for delta in deltas:
            assert delta.token_ids
            assert reason is None
            token_ids += delta.token_ids
            reason = delta.finish_reason
    return token_ids, reason
