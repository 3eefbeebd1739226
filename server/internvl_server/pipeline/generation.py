"""A running request: the token streams of its choices, merged into one stream of text deltas."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Self

from internvl_server.core import TextDelta, TextLogprobs, TokenDelta, ToolCallDelta, Usage
from internvl_server.output.text import AnswerText

__all__ = ["Choice", "Generation"]

# Deltas that may wait for a reader slower than the engine; then its choices wait too.
_MAX_QUEUED = 64


class Choice:
    """One of a request's answers while it is generated.

    Args:
        index: Its number.
        tokens: The engine's stream.
        text: Makes text of it.
        owner: Closing it aborts this answer in the engine.
    """

    def __init__(
        self, index: int, tokens: AsyncIterator[TokenDelta], text: AnswerText, owner: AsyncExitStack
    ) -> None:
        self._index = index
        self._tokens = tokens
        self._text = text
        self._owner = owner
        self.num_cached_tokens = 0

    def reindex(self, index: int) -> Self:
        """The same answer under another number."""
        self._index = index
        return self

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far, the one that ends the answer included."""
        return self._text.num_tokens

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """What becomes certain, the last with a `finish_reason`; empty deltas are left out.

        Raises:
            EngineError: The engine failed.
        """
        async for token_delta in self._tokens:
            self.num_cached_tokens = max(self.num_cached_tokens, token_delta.num_cached_tokens)
            delta = self._text.push(token_delta)
            if delta.finish_reason is not None:
                await self._owner.aclose()  # at a stop string the engine would go on
            if delta.finish_reason is not None or delta.text or delta.tool_calls:
                yield replace(delta, index=self._index) if self._index else delta
            if delta.finish_reason is not None:
                return


class Generation:
    """One accepted request while its answers are generated. Its owner's stack holds the resources.

    Args:
        usage: What the prompt took.
        choices: Its answers, as many of each prompt.
        num_prompts: Prompts they are to.
    """

    def __init__(self, usage: Usage, choices: Sequence[Choice], *, num_prompts: int = 1) -> None:
        self._firsts = choices[:: len(choices) // num_prompts]
        self._usage = usage
        self._choices = choices
        self._pumps: list[asyncio.Task[None]] = []

    @classmethod
    def joined(cls, generations: "Sequence[Generation]") -> "Generation":
        """The answers to several prompts as those to one request, reindex through."""
        every = [choice for generation in generations for choice in generation.choices]
        usages = [generation.prompt_usage for generation in generations]
        usage = replace(
            usages[0],
            num_prompt_tokens=sum(u.num_prompt_tokens for u in usages),
            num_image_tokens=sum(u.num_image_tokens for u in usages),
            images=tuple(image for u in usages for image in u.images),
        )
        choices = [choice.reindex(index) for index, choice in enumerate(every)]
        return cls(usage, choices, num_prompts=len(generations))

    @property
    def choices(self) -> Sequence[Choice]:
        """Its answers."""
        return self._choices

    @property
    def num_choices(self) -> int:
        """Answers there will be."""
        return len(self._choices)

    @property
    def prompt_usage(self) -> Usage:
        """What the prompt took."""
        return self._usage

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """Text as it becomes certain, of all choices as they come.

        The last delta of each choice has its `finish_reason`; the last of all has the `usage`.

        Raises:
            EngineError: The engine failed.
        """
        num_open = len(self._choices)
        stream = self._choices[0].deltas() if num_open == 1 else self._merged()
        async for delta in stream:
            num_open -= delta.finish_reason is not None
            yield delta if num_open else replace(delta, usage=self._total())

    async def complete(self) -> list[TextDelta]:
        """The whole answers, one delta each; the last one has the `usage`.

        Raises:
            EngineError: The engine failed.
        """
        parts: list[list[TextDelta]] = [[] for _ in self._choices]
        async for delta in self.deltas():
            parts[delta.index].append(delta)
        whole = [_joined(deltas) for deltas in parts]
        return [
            *(replace(delta, usage=None) for delta in whole[:-1]),
            replace(whole[-1], usage=self._total()),
        ]

    async def _merged(self) -> AsyncIterator[TextDelta]:
        """The choices' deltas in the order they come. A failure of one is a failure of all."""
        queue: asyncio.Queue[TextDelta | Exception | None] = asyncio.Queue(_MAX_QUEUED)
        self._pumps = [asyncio.create_task(_pump(choice, queue)) for choice in self._choices]
        try:
            num_open = len(self._pumps)
            while num_open:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    num_open -= 1
                else:
                    yield item
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop reading the engine's streams, before whoever holds them leaves them. Idempotent.

        A reader who goes away between two deltas leaves `deltas` unfinished, and nobody ends its tasks.
        """
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def _total(self) -> Usage:
        return replace(
            self._usage,
            num_completion_tokens=sum(choice.num_tokens for choice in self._choices),
            num_cached_tokens=sum(choice.num_cached_tokens for choice in self._firsts),
        )


async def _pump(choice: Choice, queue: "asyncio.Queue[TextDelta | Exception | None]") -> None:
    try:
        async for delta in choice.deltas():
            await queue.put(delta)
        await queue.put(None)
    except Exception as error:  # noqa: BLE001  (handed to the reader)
        await queue.put(error)


def _joined(deltas: Sequence[TextDelta]) -> TextDelta:
    """All deltas of a choice as one."""
    last = deltas[-1]
    logprobs: list[TextLogprobs] = []
    for delta in deltas:
        logprobs += delta.logprobs
    return TextDelta(
        text="".join(delta.text for delta in deltas),
        finish_reason=last.finish_reason,
        logprobs=tuple(logprobs),
        tool_calls=_whole_calls(deltas),
        index=last.index,
    )


def _whole_calls(deltas: Sequence[TextDelta]) -> tuple[ToolCallDelta, ...]:
    """Each call as one piece. One that the answer's end cut off is left out: a call's JSON is whole."""
    calls: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        for piece in delta.tool_calls:
            call = calls.get(piece.index)
            whole = (
                piece if call is None else replace(call, arguments=call.arguments + piece.arguments)
            )
            calls[piece.index] = whole
    if calls and not _is_json(calls[max(calls)].arguments):
        del calls[max(calls)]
    return tuple(calls.values())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
