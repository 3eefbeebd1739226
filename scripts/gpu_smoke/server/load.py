"""Many streams at once: mixed ones, ones that are left, and more than the key-value cache holds."""

import asyncio
import random
import time
from http import HTTPStatus

from scripts.gpu_smoke.prompts import mixed, question
from scripts.gpu_smoke.results import must
from scripts.gpu_smoke.server.answers import count
from scripts.gpu_smoke.server.running import CHAT, Running, Streamed

__all__ = ["EXHAUSTING", "FITTING", "exhausted_cache", "left_early", "streams", "streams_again"]

# Streams that are left must not make those after them slower.
_MIN_SPEED_AFTER_ABORTS = 0.8
FITTING, EXHAUSTING = 4, 32  # requests that fit the cache, and that are sent


async def streams(running: Running) -> str:
    """Mixed streams, once to warm up and once timed."""
    await _load(running)
    running.speed = await _load(running)
    return f"{running.speed:.0f} tokens/s"


async def streams_again(running: Running) -> str:
    """As fast as before others were left."""
    speed = await _load(running)
    if running.speed and running.is_timed:
        must(speed >= _MIN_SPEED_AFTER_ABORTS * running.speed, f"{speed:.0f} tokens/s now")
    return f"{speed:.0f} tokens/s, {running.speed:.0f} before"


async def _load(running: Running) -> float:
    """Tokens a second of all streams together. Fails if one does."""
    start, numbers = time.monotonic(), range(running.mixed_streams)
    results = await asyncio.gather(
        *(running.stream(**mixed(n, running.tile_px)) for n in numbers), return_exceptions=True
    )
    good = [result for result in results if isinstance(result, Streamed)]
    failed = [result for result in results if not isinstance(result, Streamed)]
    must(not failed, f"{len(failed)} streams failed, one with {failed[:1]}")
    return sum(result.completion_tokens for result in good) / (time.monotonic() - start)


async def left_early(running: Running) -> str:
    """Streams left after 1 to 8 chunks."""
    rng = random.Random(0)
    results = await asyncio.gather(
        *(
            running.stream(rng.randint(1, 8), **mixed(n, running.tile_px))
            for n in range(running.num_aborts)
        ),
        return_exceptions=True,
    )
    failed = [result for result in results if isinstance(result, BaseException)]
    must(not failed, f"{len(failed)} of {len(results)} failed, one with {failed[:1]}")
    return f"{len(results)} left"


async def exhausted_cache(running: Running) -> str:
    """Of more requests than the cache holds none is lost: each has an answer of its length, or a refusal."""
    room = running.max_model_len
    words = "blocks and more " * (room // 3)
    per_char = await count(running, [question(words)]) / len(words)
    text = words[: int(0.6 * room / per_char)]
    num_tokens = room // 4

    async def one(number: int) -> int:
        body = {
            "messages": [question(f"{number}: {text}")], "max_tokens": num_tokens, "ignore_eos": True,
            "temperature": 0,
        }  # fmt: skip
        response = await running.post(CHAT, body)
        if response.status_code != HTTPStatus.OK:
            must("error" in response.json(), f"{response.status_code} without an error")
            return response.status_code
        found = response.json()["usage"]["completion_tokens"]
        must(found == num_tokens, f"answered with {found} of {num_tokens} tokens")
        return HTTPStatus.OK

    start = time.monotonic()
    statuses = await asyncio.gather(*map(one, range(EXHAUSTING)))
    refused = [status for status in statuses if status != HTTPStatus.OK]
    must(all(status in (429, 503) for status in refused), f"refused with {set(refused)}")
    answered = len(statuses) - len(refused)
    must(answered >= FITTING, f"{answered} answered, fewer than fit the cache")
    took = time.monotonic() - start
    return f"{answered} answered and {len(refused)} refused of {EXHAUSTING} in {took:.1f} s"
