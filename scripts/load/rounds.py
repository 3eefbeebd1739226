"""Rounds of load: so many clients at a time, or so many requests a second; and what came of them."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from scripts.load.costs import Cost, cost_of
from scripts.load.figures import percentile
from scripts.load.streams import Timing

__all__ = ["Round", "closed_loop", "open_loop"]

Send = Callable[[Any], Awaitable[Timing]]


@dataclass(frozen=True)
class Round:
    """Figures of a round: milliseconds, rates a second, microseconds of CPU a token. None is unknown."""

    num_requests: int
    num_failed: int
    first_failure: str
    wall_s: float
    prompt_tokens: float | None
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    gap_max_ms: float | None
    total_p50_ms: float | None
    tokens_per_s: float
    requests_per_s: float
    frames_per_token: float | None
    loop_us_per_frame: float | None
    loop_us_per_token: float | None
    process_us_per_token: float | None
    loop_ms_per_request: float | None
    process_ms_per_request: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def closed_loop(
    send: Send, bodies: Iterable[Any], num_clients: int, *, pid: int | None = None
) -> Round:
    """Each of the clients sends its next request when the last is answered."""
    timings: list[Timing] = []
    waiting = iter(bodies)

    async def client() -> None:
        for body in waiting:
            timings.append(await _timed(send, body))

    with _no_collection():
        start, before = time.perf_counter(), _cost(pid)
        await asyncio.gather(*(client() for _ in range(num_clients)))
        return summary(timings, time.perf_counter() - start, _cost(pid), before)


async def open_loop(
    send: Send, bodies: Iterable[Any], rate: float, *, pid: int | None = None
) -> Round:
    """A request every 1/rate seconds, whether earlier ones are answered or not."""
    tasks = []
    with _no_collection():
        start, before = time.perf_counter(), _cost(pid)
        for number, body in enumerate(bodies):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(_timed(send, body)))
        timings = await asyncio.gather(*tasks)
        return summary(timings, time.perf_counter() - start, _cost(pid), before)


async def _timed(send: Send, body: Any) -> Timing:
    try:
        return await send(body)
    except OSError as error:
        return Timing(tail=repr(error).encode())


def summary(timings: list[Timing], wall_s: float, after: Cost | None, before: Cost | None) -> Round:
    """The figures of a round, of its good answers."""
    good = [timing for timing in timings if timing.is_good]
    failed = [timing for timing in timings if not timing.is_good]
    firsts = [timing.first_s for timing in good if timing.first_s is not None]
    gaps = [gap for timing in good for gap in timing.gaps]
    tokens = sum(timing.completion_tokens for timing in good)
    frames = sum(timing.num_frames for timing in good)
    cost = after - before if after and before else None
    per_token = 1e6 / tokens if tokens else None
    per_request = 1e3 / len(good) if good else None
    return Round(
        num_requests=len(timings),
        num_failed=len(failed),
        first_failure=_reason(failed[0]) if failed else "",
        wall_s=wall_s,
        prompt_tokens=percentile([float(timing.prompt_tokens) for timing in good], 0.5),
        ttft_p50_ms=_ms(percentile(firsts, 0.5)),
        ttft_p99_ms=_ms(percentile(firsts, 0.99)),
        gap_p50_ms=_ms(percentile(gaps, 0.5)),
        gap_p99_ms=_ms(percentile(gaps, 0.99)),
        gap_max_ms=_ms(max(gaps, default=None)),
        total_p50_ms=_ms(percentile([timing.total_s for timing in good], 0.5)),
        tokens_per_s=tokens / wall_s,
        requests_per_s=len(good) / wall_s,
        frames_per_token=frames / tokens if tokens else None,
        loop_us_per_frame=cost.loop_s * 1e6 / frames if cost and frames else None,
        loop_us_per_token=cost.loop_s * per_token if cost and per_token else None,
        process_us_per_token=cost.total_s * per_token if cost and per_token else None,
        loop_ms_per_request=cost.loop_s * per_request if cost and per_request else None,
        process_ms_per_request=cost.total_s * per_request if cost and per_request else None,
    )


def _reason(timing: Timing) -> str:
    text = timing.tail.rpartition(b"\r\n\r\n")[2].decode(errors="replace").strip()
    return f"status {timing.status}: {text[-200:]}"


def _cost(pid: int | None) -> Cost | None:
    return cost_of(pid) if pid is not None else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


@contextmanager
def _no_collection() -> Iterator[None]:
    """The client's own garbage collection would look like gaps."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
