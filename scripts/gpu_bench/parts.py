"""The parts of the benchmark: which systems run beside each other, and what is measured of them in turn."""

import asyncio
import itertools
from functools import partial
from typing import Any

from scripts.gpu_bench.cells import CONTENTS, Cell, Scale, cells
from scripts.load.rounds import open_loop
from scripts.load.systems import Http
from scripts.load.turns.parts import Figures, Measure, Part, System, SystemKind

__all__ = ["parts"]

_SERVERS = SystemKind("ours"), SystemKind("lmdeploy")
_SOME = 64  # clients of the parts that are no table
_PREFILL_TOKENS = 2048, 8192
_TABLE = "table"
_SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "enum": ["red", "green", "blue"]},
        "count": {"type": "string", "pattern": "^[0-9]{1,3}$"},
        "words": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[a-z]{2,9}$"},
            "minItems": 8,
            "maxItems": 8,
        },
    },
    "required": ["colour", "count", "words"],
    "additionalProperties": False,
}
_GUIDED = {
    "ignore_eos": False,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "blocks", "strict": True, "schema": _SCHEMA},
    },
}
_LOGPROBS = {
    "none": {},
    "of the chosen": {"logprobs": True},
    "5 likeliest": {"logprobs": True, "top_logprobs": 5},
    "5 likeliest, greedy": {"logprobs": True, "top_logprobs": 5, "temperature": 0},
}


def parts(scale: Scale, rates: list[float]) -> list[Part]:
    """All parts; the table is one part for each content."""
    most = max(scale.clients)
    some = max((clients for clients in scale.clients if clients <= _SOME), default=most)
    by_content = itertools.groupby(cells(scale), lambda cell: cell.content)
    every = [
        Part(
            f"{_TABLE}: {content}",
            (*_SERVERS, SystemKind("raw")),
            [Measure(cell.name, partial(_cell, scale, cell)) for cell in group],
        )
        for content, group in by_content
    ]
    plain = Cell("text", "top_k 50", some)
    pictures = [
        Measure(f"picture {n + 1} after the start", partial(_one_picture, scale)) for n in range(3)
    ]
    return [
        Part("first pictures", _SERVERS, pictures),  # the first part: nothing has run before it
        *every,
        Part(
            "constraints",
            _SERVERS,
            [
                Measure(f"{k} of {some} with a schema", partial(_guided, scale, some, k))
                for k in sorted({0, min(1, some - 1), some // 4})
            ],
        ),
        Part(
            "log probabilities",
            _SERVERS,
            [
                Measure(f"{name}, {some}", partial(_cell, scale, plain, **extra))
                for name, extra in _LOGPROBS.items()
            ],
        ),
        Part(
            "prefill beside streams",
            tuple(
                SystemKind("ours", f"ours, {n} a pass", (("max_prefill_token_num", n),))
                for n in _PREFILL_TOKENS
            ),
            [Measure(f"{some} text streams, 4 clients with 13 tiles", partial(_beside, scale, some))],
        ),
        Part(
            "open loop",
            _SERVERS,
            [
                Measure(f"{content}, {rate:g} a second", partial(_open, scale, content, rate, most))
                for content in CONTENTS
                for rate in rates
            ],
        ),
    ]  # fmt: skip


async def _cell(scale: Scale, cell: Cell, system: System, start: int, **extra: Any) -> Figures:
    return (await system.measure(cell.bodies(scale, start, **extra), cell.clients)).as_dict()


async def _one_picture(scale: Scale, system: System, start: int) -> Figures:
    """One request at a time: the first meets kernels that nobody has tuned and buffers nobody has made."""
    body = Cell("1 tile", "greedy", 1).body(scale, start, max_tokens=1)
    return (await system.measure([body], 1)).as_dict()


async def _guided(scale: Scale, clients: int, guided: int, system: Http, start: int) -> Figures:
    """Figures of the streams without a schema, while others with one go on and on."""
    cell = Cell("text", "top_k 50", clients - guided)
    others = [
        asyncio.create_task(_again(scale, system, start + 10_000 + 1000 * n, **_GUIDED))
        for n in range(guided)
    ]
    try:
        return (await system.measure(cell.bodies(scale, start), cell.clients)).as_dict()
    finally:
        await _end(others)


async def _beside(scale: Scale, clients: int, system: Http, start: int) -> Figures:
    """Figures of text streams, while others send pictures."""
    cell = Cell("text", "top_k 50", clients)
    others = [
        asyncio.create_task(_again(scale, system, start + 10_000 + 1000 * n, content="13 tiles"))
        for n in range(4)
    ]
    try:
        return (await system.measure(cell.bodies(scale, start), cell.clients)).as_dict()
    finally:
        await _end(others)


async def _again(
    scale: Scale, system: Http, start: int, content: str = "text", **extra: Any
) -> None:
    """A client that sends one request after the other. Fails if one is refused."""
    cell = Cell(content, "top_k 50", 1)
    for number in itertools.count(start):
        timing = await system.send(cell.body(scale, number, **extra))
        if not timing.is_good:
            raise ValueError(f"refused: {timing.status} {timing.tail[-200:]!r}")


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    """Stop clients; one that has failed fails the measurement."""
    failed = [task for task in tasks if task.done() and task.exception()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        raise task.exception() or ValueError("a client beside the streams failed")


async def _open(
    scale: Scale, content: str, rate: float, clients: int, system: Http, start: int
) -> Figures:
    bodies = Cell(content, "top_k 50", clients).bodies(scale, start)
    return (await open_loop(system.send, bodies, rate, pid=system.process.pid)).as_dict()
