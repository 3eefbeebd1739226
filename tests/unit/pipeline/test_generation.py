"""How an answer ends."""

import asyncio
from functools import partial

from internvl_server.core import Regex, TextDelta, TokenDelta, Usage
from internvl_server.engine.stream import Stream
from internvl_server.output.detokenizer import BytesDetokenizer
from internvl_server.output.stop import StopMatcher
from internvl_server.output.text import AnswerRules, AnswerText
from internvl_server.pipeline.answers import Answer
from internvl_server.pipeline.conformity import CheckedAnswer, SchemaChecker
from internvl_server.pipeline.generation import Generation
from internvl_server.telemetry.tokens import TokenMeter


async def test_the_engine_does_not_go_on_while_the_answer_is_checked() -> None:
    aborted: list[bool] = []

    async def enter(_: Stream) -> object:
        return lambda: aborted.append(True)

    class Checked(CheckedAnswer):
        async def push(self, delta: TextDelta) -> TextDelta:
            assert bool(aborted) == (delta.finish_reason is not None)
            await asyncio.sleep(0.01)
            return await super().push(delta)

    text = AnswerText(AnswerRules(), BytesDetokenizer([b"1", b"."]), StopMatcher(["."]))
    async with Stream(enter) as stream:
        answer = Answer(0, stream, text, Checked(Regex("1"), SchemaChecker()), meter=TokenMeter())
        generation = Generation(Usage(1, 0), [answer])
        reading = asyncio.create_task(generation.whole_deltas())
        await asyncio.sleep(0)
        for token_id in (0, 1, 0, 0):
            stream.put(TokenDelta((token_id,)))
            await asyncio.sleep(0.002)
        deltas = await reading
        await answer.aclose()
    assert [(delta.text, delta.finish_reason) for delta in deltas] == [("1", None), ("", "stop")]
    assert deltas[-1].usage == Usage(1, 2)


async def test_a_cancelled_close_ends_all_answers_in_the_engine() -> None:
    aborted: list[Stream] = []

    async def enter(stream: Stream) -> object:
        return lambda: aborted.append(stream)

    class Slow(CheckedAnswer):
        async def push(self, delta: TextDelta) -> TextDelta:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(60)  # such as a process that does not give way
            raise AssertionError

    text = partial(AnswerText, AnswerRules(), BytesDetokenizer([b"1"]), StopMatcher([]))
    checked = Slow(Regex("1"), SchemaChecker())
    async with Stream(enter) as first, Stream(enter) as second:
        meter = TokenMeter()
        answers = [
            Answer(0, first, text(), checked, meter=meter),
            Answer(1, second, text(), meter=meter),
        ]
        generation = Generation(Usage(1, 0), answers)
        reading = asyncio.create_task(generation.whole_deltas())
        await asyncio.sleep(0)
        first.put(TokenDelta((0,)))
        await asyncio.sleep(0.002)  # the check has begun
        closing = asyncio.create_task(generation.aclose())
        await asyncio.sleep(0.002)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert set(aborted) == {first, second}
        assert not meter._answers
        reading.cancel()
