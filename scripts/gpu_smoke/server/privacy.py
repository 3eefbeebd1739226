"""Two pictures of one size and other content, at the same time: each answer must belong to its picture."""

import asyncio
import math
from statistics import fmean
from typing import Any

from scripts.gpu_smoke.prompts import Messages, picture_url
from scripts.gpu_smoke.results import must
from scripts.gpu_smoke.server.running import Running

__all__ = ["interleaved_pictures"]

_NUM_ROUNDS = 64
_NUM_TOP = 20
_AT_ONCE = 8


async def interleaved_pictures(running: Running) -> str:
    """The first token's log probabilities must be nearest to those of the same picture alone.

    Prompts have the same token ids and lengths, and their pictures meet in batches and in the prefix cache.
    """
    alone = [await _top(running, which) for which in range(2)]
    apart = _distance(*alone)
    must(apart > 0, "the model does not see a difference between the pictures")
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> tuple[float, float]:
        which = number % 2
        async with limit:
            found = await _top(running, which)
        return _distance(found, alone[which]), _distance(found, alone[1 - which])

    distances = await asyncio.gather(*map(one, range(_NUM_ROUNDS)))
    mixed_up = sum(own >= other for own, other in distances)
    worst = max(own for own, _ in distances)
    must(not mixed_up, f"{mixed_up} of {_NUM_ROUNDS} answers are those of the other picture")
    return (
        f"{_NUM_ROUNDS} answers at most {worst:.3f} from their own, the pictures {apart:.3f} apart"
    )


async def _top(running: Running, which: int) -> dict[str, float]:
    answer = await running.ask(
        _messages(running.tile_px, which), max_tokens=1, logprobs=True, top_logprobs=_NUM_TOP
    )
    [place] = answer["choices"][0]["logprobs"]["content"]
    # Bytes tell tokens apart whose text is the same.
    return {
        str(token["bytes"] or token["token"]): token["logprob"] for token in place["top_logprobs"]
    }


def _messages(tile_px: int, which: int) -> Messages:
    url = picture_url(tile_px, tile_px, seed=1000 + which)
    picture: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [picture, {"type": "text", "text": "Describe it."}]}]


def _distance(one: dict[str, float], other: dict[str, float]) -> float:
    """Root mean square difference of log probabilities; a token that one list lacks counts as its last."""
    last = min(*one.values(), *other.values())
    tokens = one.keys() | other.keys()
    return math.sqrt(
        fmean((one.get(token, last) - other.get(token, last)) ** 2 for token in tokens)
    )
