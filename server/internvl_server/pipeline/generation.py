"""A running request: the token streams of its answers, merged into one stream of text deltas."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from internvl_server.core import TextDelta, TextLogprobs, TokenDelta, ToolCallDelta, Usage
from internvl_server.errors import EngineError
from internvl_server.output.text import AnswerText
from internvl_server.pipeline.conformity import CheckedAnswer

__all__ = ["Answer", "Generation"]

# Deltas that may wait for a client slower than the engine; then its answers wait too.
_MAX_QUEUED = 64


class Answer:
    """One answer to a request, one of the API's `choices`, while it is generated.

    Args:
        index: Its number in the request.
        tokens: The engine's stream.
        text: Converts the tokens.
        owner: Closing it aborts this answer in the engine.
        checked: Checks the text; None where the engine enforces all of the constraint.
    """

    def __init__(
        self,
        index: int,
        tokens: AsyncIterator[TokenDelta],
        text: AnswerText,
        owner: AsyncExitStack,
        checked: CheckedAnswer | None = None,
    ) -> None:
        self._checked = checked
        self.index = index
        self._tokens = tokens
        self._text = text
        self._owner = owner
        self.num_cached_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far, including the one that ends the answer."""
        return self._text.num_tokens

    @property
    def num_reasoning_tokens(self) -> int:
        """Those of them that belong to reasoning."""
        return self._text.num_reasoning_tokens

    async def deltas(self, usage: Callable[[], Usage] | None = None) -> AsyncIterator[TextDelta]:
        """Text as it becomes certain. Only the last delta has a `finish_reason`; none is empty.

        Args:
            usage: Makes the usage of the last delta.

        Raises:
            EngineError: The engine failed, or ended its stream without a finish reason.
        """
        async for token_delta in self._tokens:
            self.num_cached_tokens = max(self.num_cached_tokens, token_delta.num_cached_tokens)
            delta = self._text.push(token_delta)
            if delta.finish_reason is not None:
                await self._owner.aclose()  # the engine does not know stop strings and would go on
            if self._checked is not None:
                delta = await self._checked.push(delta)
            if delta.finish_reason is not None:
                await self._owner.aclose()  # the check may end the answer too
                yield replace(delta, index=self.index, usage=usage() if usage else None)
                return
            if delta.text or delta.reasoning or delta.tool_calls:
                yield replace(delta, index=self.index) if self.index else delta
        raise EngineError("The engine ended the answer without a finish reason.")


class Generation:
    """One accepted request while its answers are generated. Its owner's stack holds the resources.

    Args:
        usage: Token counts of the prompts.
        answers: The answers, equally many to each prompt, in the order of the prompts.
        num_prompts: Number of prompts.
        warnings: What is done otherwise than the request may expect, as sentences.
    """

    def __init__(
        self,
        usage: Usage,
        answers: Sequence[Answer],
        *,
        num_prompts: int = 1,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.warnings = warnings
        self._firsts = answers[:: len(answers) // num_prompts]
        self._usage = usage
        self._answers = answers
        self._pumps: list[asyncio.Task[None]] = []

    @classmethod
    def joined(cls, generations: "Sequence[Generation]") -> "Generation":
        """Join the answers to several prompts into one generation, numbered consecutively."""
        answers = [answer for generation in generations for answer in generation.answers]
        for index, answer in enumerate(answers):
            answer.index = index
        usages = [generation.prompt_usage for generation in generations]
        usage = replace(
            usages[0],
            num_prompt_tokens=sum(u.num_prompt_tokens for u in usages),
            num_image_tokens=sum(u.num_image_tokens for u in usages),
            images=tuple(image for u in usages for image in u.images),
        )
        warnings = dict.fromkeys(w for generation in generations for w in generation.warnings)
        return cls(usage, answers, num_prompts=len(generations), warnings=tuple(warnings))

    @property
    def answers(self) -> Sequence[Answer]:
        """The answers to all prompts."""
        return self._answers

    @property
    def num_choices(self) -> int:
        """Number of answers."""
        return len(self._answers)

    @property
    def prompt_usage(self) -> Usage:
        """What the prompts took."""
        return self._usage

    def usage(self) -> Usage:
        """What the prompts took and the answers have taken so far."""
        return replace(
            self._usage,
            num_completion_tokens=sum(answer.num_tokens for answer in self._answers),
            num_cached_tokens=sum(answer.num_cached_tokens for answer in self._firsts),
            num_reasoning_tokens=sum(answer.num_reasoning_tokens for answer in self._answers),
        )

    def deltas(self) -> AsyncIterator[TextDelta]:
        """Text of all answers as it becomes certain.

        The last delta of each answer has its `finish_reason`; the last of all has the `usage`.

        Raises:
            EngineError: The engine failed.
        """
        is_one = len(self._answers) == 1
        return self._answers[0].deltas(self.usage) if is_one else self._merged()

    async def complete(self) -> list[TextDelta]:
        """Each answer as a whole, in one delta; the last one has the `usage`.

        Raises:
            EngineError: The engine failed.
        """
        parts: list[list[TextDelta]] = [[] for _ in self._answers]
        async for delta in self.deltas():
            parts[delta.index].append(delta)
        whole = [_joined(deltas) for deltas in parts]
        return [*whole[:-1], replace(whole[-1], usage=self.usage())]

    async def whole_deltas(self) -> list[TextDelta]:
        """The deltas of a complete answer, in order; if it is refused, only the last.

        Raises:
            EngineError: The engine failed.
        """
        deltas = [delta async for delta in self.deltas()]
        return deltas[-1:] if deltas[-1].refusal else deltas

    async def _merged(self) -> AsyncIterator[TextDelta]:
        """The answers' deltas in the order in which they come. If one answer fails, all do."""
        queue: asyncio.Queue[TextDelta | Exception] = asyncio.Queue(_MAX_QUEUED)
        self._pumps = [asyncio.create_task(_pump(answer, queue)) for answer in self._answers]
        try:
            num_open = len(self._pumps)
            while num_open:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                num_open -= item.finish_reason is not None
                yield item if num_open else replace(item, usage=self.usage())
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop reading the engine's streams, before their owner closes them. Idempotent.

        A client that disconnects between two deltas leaves `deltas` suspended, and its tasks running.
        """
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


async def _pump(answer: Answer, queue: "asyncio.Queue[TextDelta | Exception]") -> None:
    try:
        async for delta in answer.deltas():
            await queue.put(delta)
    except Exception as error:  # noqa: BLE001  (handed to the reader)
        await queue.put(error)


def _joined(deltas: Sequence[TextDelta]) -> TextDelta:
    """All deltas of an answer as one. One that is refused has no text and no calls."""
    last = deltas[-1]
    if last.refusal:
        deltas = deltas[-1:]
    logprobs: list[TextLogprobs] = []
    for delta in deltas:
        logprobs += delta.logprobs
    return TextDelta(
        text="".join(delta.text for delta in deltas),
        finish_reason=last.finish_reason,
        logprobs=tuple(logprobs),
        tool_calls=_whole_calls(deltas),
        index=last.index,
        stop_string=last.stop_string,
        refusal=last.refusal,
        violation=last.violation,
        reasoning="".join(delta.reasoning for delta in deltas),
    )


def _whole_calls(deltas: Sequence[TextDelta]) -> tuple[ToolCallDelta, ...]:
    """Each call as one piece. A call that the end of the answer cut off is left out."""
    pieces: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        for piece in delta.tool_calls:
            pieces.setdefault(piece.index, []).append(piece)
    calls = [
        replace(of_call[0], arguments="".join(piece.arguments for piece in of_call))
        for of_call in pieces.values()
    ]
    if calls and not _is_json(calls[-1].arguments):
        del calls[-1]
    return tuple(calls)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=float)  # Python refuses to read very long integers
    except (ValueError, RecursionError):
        return False
    return True
