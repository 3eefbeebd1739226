"""Trial requests before the engine is ready: a text, an image of one tile, and one of thirteen.

They find kernels that fail or compute NaN on this GPU. They also make TurboMind allocate and tune for images
before the first request; its own warm-up has only text.
"""

import asyncio
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core import GenerateRequest, ImageSpan, PixelType, PixelValues, SamplingParams
from internvl_server.engine.base import EngineInfo
from internvl_server.engine.stream import Stream
from internvl_server.errors import ServerError, StartupError

__all__ = ["check_answers"]

_NUM_TILES = (0, 1, 13)
_TEXT = tuple(range(65, 73))  # any ids below the special ones
_LIMIT_S = 120.0  # of one request; the first may tune kernels


async def check_answers(
    generate: Callable[[GenerateRequest], Stream],
    checkpoint: Checkpoint,
    info: EngineInfo,
) -> None:
    """Ask for one token after each of the prompts that fit the context.

    Raises:
        StartupError: A request fails, or the model computes infinities or NaN.
    """
    for num_tiles in _NUM_TILES:
        request = _request(checkpoint, num_tiles, info.pixel_type)
        if len(request.prompt_token_ids) + request.max_tokens > info.max_model_len:
            return
        values = await _logprobs(generate, request, num_tiles)
        if not values or not all(map(math.isfinite, values)):
            raise StartupError(
                f"TurboMind has loaded the model, but computes no finite logits for {_what(num_tiles)}. Try "
                "another engine.turbomind.dtype, LMDeploy or driver."
            )


async def _logprobs(
    generate: Callable[[GenerateRequest], Stream], request: GenerateRequest, num_tiles: int
) -> list[float]:
    try:
        async with asyncio.timeout(_LIMIT_S), generate(request) as deltas:
            found = [entry async for delta in deltas for entry in delta.logprobs or ()]
    except (ServerError, TimeoutError) as err:
        reason = err.message if isinstance(err, ServerError) else f"no answer in {_LIMIT_S:g} s"
        raise StartupError(
            f"TurboMind has loaded the model, but fails to answer {_what(num_tiles)}: {reason}"
        ) from err
    return [value for entry in found for value in (entry.logprob, *(v for _, v in entry.top))]


def _request(checkpoint: Checkpoint, num_tiles: int, pixel_type: PixelType) -> GenerateRequest:
    num_tokens = num_tiles * checkpoint.num_tokens_per_tile
    image = ImageSpan(len(_TEXT), num_tiles, num_tokens, bytes([num_tiles]) * 32)
    shape = (num_tiles, 3, checkpoint.tile_px, checkpoint.tile_px)
    pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return GenerateRequest(
        request_id=f"trial-{num_tiles}",
        prompt_token_ids=(*_TEXT, *[checkpoint.image_token_id] * num_tokens, *_TEXT),
        max_tokens=1,
        # A temperature of 0 with log probabilities makes TurboMind return the logits themselves.
        sampling=SamplingParams(temperature=0.0, num_logprobs=1),
        stop_token_ids=checkpoint.stop_token_ids,
        images=(image,) if num_tiles else (),
        pixel_values=(_rounded(pixels, pixel_type),) if num_tiles else (),
    )


def _rounded(pixels: npt.NDArray[np.float32], pixel_type: PixelType) -> PixelValues:
    if pixel_type is PixelType.BFLOAT16:  # the upper half of a float32
        return (pixels.view(np.uint32) >> 16).astype(np.uint16)
    return pixels.astype(pixel_type.storage)


def _what(num_tiles: int) -> str:
    return f"an image of {num_tiles} tile(s)" if num_tiles else "a text"
