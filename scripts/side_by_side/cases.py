"""What is measured, and with which requests."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.load.bodies import chat_body, fresh_picture, text_of_length
from scripts.load.costs import memory_bytes
from scripts.load.systems import Http
from scripts.load.turns.parts import Figures, Measure, Part, SystemKind
from scripts.load.turns.records import Columns

__all__ = ["Sizes", "columns_of", "parts"]

_SERVERS = SystemKind("ours"), SystemKind("lmdeploy")
_WITH_FLOOR = (*_SERVERS, SystemKind("floor"))
_HD, _12_MEGAPIXELS = (1920, 1080), (4000, 3000)
_MIB = 1 << 20


@dataclass(frozen=True)
class Sizes:
    """How much is sent. The defaults are those of the documentation's table."""

    folder: Path
    streams: tuple[int, ...] = (8, 64, 128, 1000)
    new_tokens: int = 100
    pictures: int = 24
    pictures_beside: int = 250  # more than are answered while the streams run
    large_picture: tuple[int, int] = _12_MEGAPIXELS
    long_prompt: int = 30_000
    many_requests: int = 2000
    step_ms: float = 20.0


def parts(sizes: Sizes) -> list[Part]:
    """The start comes first, and the many requests last, because memory is compared with the start's."""
    streams = [
        Measure(f"{clients} streams", partial(_streams, sizes, clients))
        for clients in sizes.streams
    ]
    return [
        Part("start", _SERVERS, [Measure("ready, and memory idle", _start)]),
        Part("streams of text", _WITH_FLOOR, streams),
        Part(
            "requests",
            _SERVERS,
            [
                Measure("64 clients, not streamed", partial(_whole, sizes)),
                Measure("fresh 1080p pictures", partial(_pictures, sizes, _fresh)),
                Measure("the same 1080p picture", partial(_pictures, sizes, _same)),
                Measure("8 pictures of 12 megapixels", partial(_large, sizes)),
                Measure(f"prompts of {sizes.long_prompt:,} tokens", partial(_long, sizes)),
            ],
        ),
        Part(
            "streams beside pictures",
            _SERVERS,
            [
                Measure("32 streams alone", partial(_streams, sizes, 32)),
                Measure("32 streams, 8 fresh pictures a second", partial(_beside, sizes, 0.5)),
                Measure("32 streams, 4 clients with fresh pictures", partial(_beside, sizes, 0.0)),
            ],
        ),
        Part(
            "many requests",
            _SERVERS,
            [Measure(f"{sizes.many_requests:,} requests", partial(_many, sizes))],
        ),
    ]


def columns_of(part: Part) -> Columns:
    """The figures that a part is about."""
    return _COLUMNS.get(part.name, _STREAMED)


_STREAMED = Columns(
    {
        "first token p50 ms": "ttft_p50_ms", "p99": "ttft_p99_ms", "gap p50 ms": "gap_p50_ms",
        "p99 ": "gap_p99_ms", "p99 over the pace": "excess_p99_ms", "max": "gap_max_ms",
        "tokens/s": "tokens_per_s",
        "loop µs a frame": "loop_us_per_frame", "a token": "loop_us_per_token",
        "frames a token": "frames_per_token", "KiB a stream": "stream_kib", "failed": "num_failed",
    },
    ("ttft_p99_ms", "gap_p99_ms", "excess_p99_ms", "loop_us_per_frame", "loop_us_per_token", "stream_kib"),
)  # fmt: skip
_REQUESTS = Columns(
    {
        "answer p50 ms": "total_p50_ms", "requests/s": "requests_per_s",
        "loop ms a request": "loop_ms_per_request", "process ms a request": "process_ms_per_request",
        "prompt tokens": "prompt_tokens", "failed": "num_failed",
    },
    ("total_p50_ms", "requests_per_s", "loop_ms_per_request", "process_ms_per_request"),
)  # fmt: skip
_MEMORY = {"memory before MiB": "before_mib", "after": "after_mib", "requests/s": "requests_per_s"}
_BESIDE = Columns(
    {title: name for title, name in _STREAMED.figures.items() if name != "stream_kib"}
    | {"pictures/s": "pictures_per_s"},
    _STREAMED.ratios,
)
_COLUMNS = {
    "streams beside pictures": _BESIDE,
    "start": Columns({"ready s": "ready_s", "memory MiB": "memory_mib"}, ("ready_s", "memory_mib")),
    "requests": _REQUESTS,
    "many requests": Columns(_MEMORY, ("after_mib", "requests_per_s")),
}


async def _start(system: Http, _: int) -> Figures:
    memory = memory_bytes(system.process.pid) / _MIB
    return {"ready_s": system.ready_s, "memory_mib": memory, "num_failed": 0}


def _text_body(sizes: Sizes, number: int, num_tokens: int = 32, **fields: Any) -> bytes:
    every = {
        "model": "model", "max_tokens": sizes.new_tokens, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True}, "temperature": 0,
    } | fields  # fmt: skip
    kept = {name: value for name, value in every.items() if value is not None}
    return chat_body(text_of_length(sizes.folder, num_tokens, number), **kept)


async def _streams(sizes: Sizes, clients: int, system: Http, start: int) -> Figures:
    """Two requests of each client; the memory of a stream is that of the process in the middle."""
    bodies = [_text_body(sizes, start + n) for n in range(2 * clients)]
    before = memory_bytes(system.process.pid)
    measuring = asyncio.create_task(system.measure(bodies, clients))
    most = before
    while not measuring.done():
        await asyncio.wait([measuring], timeout=0.25)
        most = max(most, memory_bytes(system.process.pid))
    found = (await measuring).as_dict()
    found["stream_kib"] = (most - before) / 1024 / clients
    if found["gap_p99_ms"] is not None:
        found["excess_p99_ms"] = found["gap_p99_ms"] - sizes.step_ms
    return found


async def _whole(sizes: Sizes, system: Http, start: int) -> Figures:
    bodies = [_text_body(sizes, start + n, stream=None, stream_options=None) for n in range(128)]
    return (await system.measure(bodies, 64)).as_dict()


def _fresh(start: int, number: int) -> int:
    return start + number


def _same(_: int, __: int) -> int:
    return 0


async def _pictures(
    sizes: Sizes, number_of: Callable[[int, int], int], system: Http, start: int
) -> Figures:
    """Of the same picture, one request comes before, so that all that is measured are repetitions."""
    bodies = [
        _picture_body(number_of(start, n), _HD, n) for n in range(sizes.pictures + 1)
    ]  # fmt: skip
    await system.send(bodies[0])
    return (await system.measure(bodies[1:], 4)).as_dict()


def _picture_body(number: int, size: tuple[int, int], question: int, count: int = 1) -> bytes:
    urls = [fresh_picture(*size, number * count + n) for n in range(count)]
    return chat_body(
        f"{question}: what is it?", *urls, model="model", max_tokens=4, ignore_eos=True, stream=True,
        stream_options={"include_usage": True}, temperature=0,
    )  # fmt: skip


async def _large(sizes: Sizes, system: Http, start: int) -> Figures:
    bodies = [_picture_body(start + n, sizes.large_picture, n, 8) for n in range(2)]
    return (await system.measure(bodies, 1)).as_dict()


async def _long(sizes: Sizes, system: Http, start: int) -> Figures:
    bodies = [_text_body(sizes, start + n, sizes.long_prompt, max_tokens=4) for n in range(8)]
    return (await system.measure(bodies, 2)).as_dict()


async def _beside(sizes: Sizes, interval_s: float, system: Http, start: int) -> Figures:
    """Four clients send pictures, each at most one in an interval; the figures are those of the text."""
    bodies = [_picture_body(start + n, _HD, n) for n in range(sizes.pictures_beside)]
    waiting, num_answered = (
        iter(bodies),
        0,
    )  # made before, because making them would delay the streams

    async def client() -> None:
        nonlocal num_answered
        for body in waiting:
            sent = await asyncio.gather(system.send(body), asyncio.sleep(interval_s))
            num_answered += sent[0].is_good

    begin = time.perf_counter()
    clients = [asyncio.create_task(client()) for _ in range(4)]
    try:
        found = await _streams(sizes, 32, system, start)
        return found | {"pictures_per_s": num_answered / (time.perf_counter() - begin)}
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _many(sizes: Sizes, system: Http, start: int) -> Figures:
    """Short requests, every tenth with a picture."""
    before = memory_bytes(system.process.pid)
    bodies = (
        _picture_body(start + n, (448, 448), n) if n % 10 == 0
        else _text_body(sizes, start + n, max_tokens=4)
        for n in range(sizes.many_requests)
    )  # fmt: skip
    found = await system.measure(list(bodies), 32)
    memory = {"before_mib": before / _MIB, "after_mib": memory_bytes(system.process.pid) / _MIB}
    return found.as_dict() | memory
