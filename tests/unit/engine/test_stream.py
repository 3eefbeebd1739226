"""What a reader of an engine's stream gets, however fast it reads and however the request ends."""

import asyncio

import pytest
from internvl_server.core import TokenDelta, TokenLogprobs
from internvl_server.engine.stream import Stream
from internvl_server.errors import EngineError, InvalidRequestError


class Aborts:
    """Accepts a request and counts the aborts."""

    def __init__(self):
        self.num = 0

    async def enter(self, stream):
        return self.abort

    async def abort(self):
        self.num += 1


@pytest.fixture
def aborts():
    return Aborts()


async def test_a_slow_reader_gets_several_tokens_in_one_delta(aborts):
    async with Stream(aborts.enter) as stream:
        stream.put(TokenDelta((1,), None, (TokenLogprobs(-1.0),)))
        stream.put(TokenDelta((2, 3), "stop", (TokenLogprobs(-2.0), TokenLogprobs(-3.0)), 4))
        deltas = [delta async for delta in stream]
    logprobs = tuple(TokenLogprobs(value) for value in (-1.0, -2.0, -3.0))
    assert deltas == [TokenDelta((1, 2, 3), "stop", logprobs, 4)]


async def test_a_fast_reader_waits_for_each_token(aborts):
    async with Stream(aborts.enter) as stream:
        for token_id in (1, 2):
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            assert not waiting.done()
            stream.put(TokenDelta((token_id,)))
            assert await waiting == TokenDelta((token_id,))
        stream.put(TokenDelta((), "length"))
        assert [delta.finish_reason async for delta in stream] == ["length"]


async def test_tokens_come_before_the_error_that_ended_them(aborts):
    async with Stream(aborts.enter) as stream:
        stream.put(TokenDelta((1,)))
        stream.fail(EngineError("first"))
        stream.fail(EngineError("second"))
        assert (await anext(stream)).token_ids == (1,)
        with pytest.raises(EngineError, match="first"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_leaving_aborts_once_for_any_reason(aborts):
    async with Stream(aborts.enter):
        pass
    with pytest.raises(ZeroDivisionError):
        await fail_inside(Stream(aborts.enter))
    task = asyncio.ensure_future(read_for_ever(Stream(aborts.enter)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert aborts.num == 3


async def fail_inside(stream):
    async with stream:
        raise ZeroDivisionError


async def read_for_ever(stream):
    async with stream:
        await anext(stream)


async def test_a_refused_request_has_nothing_to_abort(aborts):
    async def refuse(stream):
        raise InvalidRequestError("no")

    with pytest.raises(InvalidRequestError):
        async with Stream(refuse):
            pass
    assert aborts.num == 0
