"""How an answer ends."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from internvl_server.core import Regex, TextDelta, TokenDelta
from internvl_server.output.detokenizer import BytesDetokenizer
from internvl_server.output.stop import StopMatcher
from internvl_server.output.text import AnswerRules, AnswerText
from internvl_server.pipeline.conformity import CheckedAnswer, SchemaChecker
from internvl_server.pipeline.generation import Answer


async def tokens() -> AsyncIterator[TokenDelta]:
    while True:
        yield TokenDelta((0,))
        yield TokenDelta((1,))


async def test_the_engine_does_not_go_on_while_the_answer_is_checked() -> None:
    owner = AsyncExitStack()
    closed: list[bool] = []
    owner.callback(closed.append, True)

    class Checked(CheckedAnswer):
        async def push(self, delta: TextDelta) -> TextDelta:
            assert bool(closed) == (delta.finish_reason is not None)
            return await super().push(delta)

    text = AnswerText(AnswerRules(), BytesDetokenizer([b"1", b"."]), StopMatcher(["."]))
    checked = Checked(Regex("1"), SchemaChecker())
    deltas = [delta async for delta in Answer(0, tokens(), text, owner, checked).deltas()]
    assert [(delta.text, delta.finish_reason) for delta in deltas] == [("1", None), ("", "stop")]
