"""Jobs on handles that fail: no reader waits forever, no slot is lost. No LMDeploy."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.engine.stream import Stream
from internvl_server.engine.turbomind.jobs import JobPool, Work
from internvl_server.errors import EngineError

REQUEST = GenerateRequest("r", (1,), 4, SamplingParams(), frozenset({9}))


@dataclass
class Output:
    token_ids: tuple[int, ...]
    is_last: bool = False
    logprobs: None = None
    num_cached_tokens: int = 0
    error: None = None


class Handle:
    """Yields the outputs it was made with."""

    def __init__(self, *outputs, is_reusable=True):
        self._outputs = outputs
        self.is_reusable = is_reusable

    async def outputs(self, request, images, grammar):
        for output in self._outputs:
            await asyncio.sleep(0)
            if isinstance(output, Exception):
                raise output
            yield output

    async def cancel(self):
        pass


def pool_of(new_handle: Any) -> JobPool:
    return JobPool(1, new_handle)


async def read(pool):
    async def enter(stream):
        job = pool.submit(stream, Work(REQUEST, None, None))
        return lambda: pool.abort(job)

    try:
        async with asyncio.timeout(5), Stream(enter) as stream:
            return [delta async for delta in stream]
    finally:
        await asyncio.sleep(0.01)  # the job ends after its reader


async def test_an_end_without_a_reason_is_an_error():
    pool = pool_of(lambda: Handle(Output((1,))))
    for _ in range(2):
        with pytest.raises(EngineError, match="without a reason"):
            await read(pool)
    assert (pool.num_free, pool.num_running, pool.num_waiting) == (1, 0, 0)


async def test_a_failing_handle_fails_its_request_alone():
    pool = pool_of(lambda: Handle(Output((1,)), RuntimeError("native")))
    for _ in range(2):
        with pytest.raises(EngineError, match="The engine failed"):
            await read(pool)
    assert pool.num_free == 1


async def test_a_handle_that_cannot_be_replaced_fails_one_request():
    made = iter(
        [
            Handle(Output((9,), is_last=True), is_reusable=False),
            RuntimeError("no native object"),
            Handle(Output((9,), is_last=True)),
        ]
    )

    def new_handle():
        handle = next(made)
        if isinstance(handle, Exception):
            raise handle
        return handle

    pool = pool_of(new_handle)
    assert [delta.finish_reason for delta in await read(pool)] == ["stop"]
    assert (pool.can_make_handles, pool.silence_s) == (True, 0)
    with pytest.raises(EngineError, match="The engine failed"):
        await read(pool)
    assert not pool.can_make_handles
    assert pool.silence_s > 0, "it counts as a stall until it is repaired"
    pool.replace_handle()
    assert (pool.can_make_handles, pool.num_free, pool.silence_s) == (True, 1, 0)
    assert [delta.finish_reason for delta in await read(pool)] == ["stop"]
    assert (pool.num_free, pool.num_running, pool.num_waiting) == (1, 0, 0)
