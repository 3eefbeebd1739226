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

    def abort(self):
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


class Gathering:
    """A sink that writes down what it gets, and may detach itself on the first delta."""

    def __init__(self, leaves=None):
        self.got = []
        self._leaves = leaves

    def put(self, delta):
        self.got.append(delta)
        if self._leaves is not None:
            self._leaves.detach()

    def fail(self, error):
        self.got.append(str(error))


async def test_a_sink_gets_what_has_gathered_and_then_each_delta(aborts):
    sink = Gathering()
    async with Stream(aborts.enter) as stream:
        stream.put(TokenDelta((1,)))
        stream.put(TokenDelta((2,)))
        stream.attach(sink)
        stream.put(TokenDelta((3,)))
        stream.detach()
        stream.put(TokenDelta((4,)))
        stream.put(TokenDelta((5,), "length", None, 6))
        stream.attach(sink)
        stream.detach()
        stream.attach(sink)
    deltas = [TokenDelta((1, 2)), TokenDelta((3,)), TokenDelta((4, 5), "length", None, 6)]
    assert sink.got == deltas


async def test_a_sink_that_detaches_itself_gets_the_error_later(aborts):
    async with Stream(aborts.enter) as stream:
        stream.put(TokenDelta((1,)))
        stream.fail(EngineError("it failed"))
        stream.fail(EngineError("again"))
        sink = Gathering(leaves=stream)
        stream.attach(sink)
        assert sink.got == [TokenDelta((1,))]
        stream.attach(sink)
        assert sink.got == [TokenDelta((1,)), "it failed"]


async def test_a_sink_gets_the_error_at_once(aborts):
    sink = Gathering()
    async with Stream(aborts.enter) as stream:
        stream.attach(sink)
        stream.fail(EngineError("it failed"))
        stream.fail(EngineError("again"))
    assert sink.got == ["it failed"]


def with_logprobs(first, number, reason=None):
    ids = tuple(range(first, first + number))
    return TokenDelta(ids, reason, tuple(TokenLogprobs(-float(i)) for i in ids))


@pytest.mark.parametrize("is_attached", [True, False])
async def test_many_log_probabilities_let_others_run(aborts, is_attached):
    """A millisecond of work for each few tokens: all at once would hold up every other stream."""
    sink = Gathering()
    async with Stream(aborts.enter) as stream:
        if is_attached:
            stream.attach(sink)
        stream.put(with_logprobs(0, 200))
        stream.put(with_logprobs(200, 100, "stop"))
        stream.fail(EngineError("it failed"))
        if not is_attached:
            stream.attach(sink)
        num_turns = 0
        while len(sink.got) < 11:
            await asyncio.sleep(0)
            num_turns += 1
        await asyncio.sleep(0)
    *deltas, error = sink.got
    assert error == "it failed"
    assert num_turns >= 9
    assert [i for delta in deltas for i in delta.token_ids] == list(range(300))
    assert all(len(delta.token_ids) == len(delta.logprobs) <= 32 for delta in deltas)
    assert [delta.finish_reason for delta in deltas] == [None] * 9 + ["stop"]


async def test_a_sink_may_leave_between_log_probabilities(aborts):
    first, second = Gathering(), Gathering()
    async with Stream(aborts.enter) as stream:
        stream.attach(first)
        stream.put(with_logprobs(0, 100))
        stream.detach()
        await asyncio.sleep(0)
        stream.put(with_logprobs(100, 1, "length"))
        stream.attach(second)
        for _ in range(5):
            await asyncio.sleep(0)
    got = [[i for delta in sink.got for i in delta.token_ids] for sink in (first, second)]
    assert got == [list(range(32)), list(range(32, 101))]


async def test_leaving_aborts_once_for_any_reason(aborts):
    async with Stream(aborts.enter) as stream:
        stream.abort()
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


class Leaver:
    """Aborts as it takes what ended the request, as an answer does."""

    def __init__(self, stream):
        self._stream = stream

    def put(self, delta):
        self._stream.abort()

    def fail(self, error):
        self._stream.abort()


async def test_what_has_ended_is_not_aborted(aborts):
    for end in (
        lambda stream: stream.put(TokenDelta((1,), "stop")),
        lambda stream: stream.fail(EngineError("broken")),
    ):
        async with Stream(aborts.enter) as stream:
            stream.attach(Leaver(stream))
            end(stream)
    assert aborts.num == 0
    async with Stream(aborts.enter) as stream:
        stream.attach(Leaver(stream))
        stream.put(TokenDelta((1,)))
    assert aborts.num == 1
