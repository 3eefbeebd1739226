"""A running request: its answers, read as they are generated or as a whole."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from internvl_server.concurrency.sharing import Share
from internvl_server.core import TextDelta, TextLogprobs, ToolCallDelta, Usage
from internvl_server.errors import ServerError
from internvl_server.pipeline.answers import Answer, Reader
from internvl_server.pipeline.watch import Patience, Watch
from internvl_server.telemetry.record import RequestRecord

__all__ = ["Generation"]


class Generation:
    """One accepted request while its answers are generated; `aclose` frees what it holds.

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
        self.warnings = tuple(dict.fromkeys(warnings))
        self._firsts = answers[:: len(answers) // num_prompts]
        self._usage = usage
        self._answers = answers
        self._num_open = len(answers)
        self._is_paused = self._has_failed = False
        self._slots: Share | None = None
        self._patience: Patience | None = None
        self._watch: Watch | None = None
        self._entered_at = time.monotonic()
        self._reasons: list[str] = []
        self._reader: Reader

    @classmethod
    def joined(cls, generations: "Sequence[Generation]") -> "Generation":
        """Join the answers to several prompts into one generation, numbered consecutively."""
        if len(generations) == 1:
            return generations[0]
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
        warnings = tuple(w for generation in generations for w in generation.warnings)
        return cls(usage, answers, num_prompts=len(generations), warnings=warnings)

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

    def note(self, record: RequestRecord) -> None:
        """Write to a record what the prompts and the answers have taken so far."""
        usage = self.usage()
        record.entered_at = self._entered_at
        record.first_token_at = min((a.first_at for a in self._answers if a.first_at), default=0.0)
        record.last_token_at = max(answer.last_at for answer in self._answers)
        record.num_prompt_tokens = usage.num_prompt_tokens
        record.num_image_tokens = usage.num_image_tokens
        record.num_images = len(usage.images)
        record.num_tiles = sum(image.num_tiles for image in usage.images)
        record.num_cached_tokens = usage.num_cached_tokens
        record.num_completion_tokens = usage.num_completion_tokens
        record.finish_reasons = tuple(self._reasons)

    def hold(self, slots: Share, patience: Patience) -> None:
        """Own places in the engine, which are free as answers end, and limit its time."""
        self._slots, self._patience = slots, patience

    def start(self, reader: Reader, keep_alive: Callable[[], float] = lambda: math.inf) -> None:
        """Pass the text of all answers to a reader as it becomes certain. If one answer fails, all do.

        The last delta of each answer has its `finish_reason`; the last of all has the `usage`. `keep_alive`
        is called again after the seconds it returns, until `aclose`.
        """
        self._reader = reader
        if self._patience is not None:
            self._watch = Watch(self._patience, self._num_taken_tokens, self._give_up, keep_alive)
        self.resume()

    def pause(self) -> None:
        """Let the tokens gather, for a reader that cannot take more now."""
        self._is_paused = True
        for answer in self._answers:
            answer.pause()

    def resume(self) -> None:
        """Go on, with one delta of what has gathered. The reader may pause again meanwhile."""
        self._is_paused = False
        for answer in self._answers:
            if self._is_paused or self._has_failed:
                return
            answer.resume(self)

    @property
    def put_json(self) -> Callable[[int, bytes], None] | None:
        """The reader's, which answers call themselves."""
        return self._reader.put_json

    def put(self, delta: TextDelta) -> None:
        """Take a delta; called by an answer, as all that follow."""
        if self._has_failed:
            return
        if delta.finish_reason is not None:
            self._num_open -= 1
            self._reasons.append(delta.finish_reason)
            self._leave_engine()
            if not self._num_open:
                delta = replace(delta, usage=self.usage())
        self._reader.put(delta)

    def fail(self, error: Exception) -> None:
        """Take the first failure and end the other answers."""
        if self._has_failed:
            return
        self._has_failed = True
        for answer in self._answers:
            answer.end()
        self._num_open = 0
        self._leave_engine()
        self._reader.fail(error)

    def break_off(self, error: ServerError) -> None:
        """End all answers in the engine; their readers get the error after the tokens so far."""
        for answer in self._answers:
            answer.break_off(error)

    async def complete(self) -> list[TextDelta]:
        """Each answer as a whole, in one delta; the last one has the `usage`.

        Raises:
            EngineError: The engine failed.
        """
        parts: list[list[TextDelta]] = [[] for _ in self._answers]
        for delta in await self._all_deltas():
            parts[delta.index].append(delta)
        whole = [_joined(deltas) for deltas in parts]
        return [*whole[:-1], replace(whole[-1], usage=self.usage())]

    async def whole_deltas(self) -> list[TextDelta]:
        """The deltas of a complete answer, in order; if it is refused, its reasoning and the last.

        Raises:
            EngineError: The engine failed.
        """
        *deltas, last = await self._all_deltas()
        if last.refusal:
            deltas = [TextDelta("", reasoning=d.reasoning) for d in deltas if d.reasoning]
        return [*deltas, last]

    async def _all_deltas(self) -> list[TextDelta]:
        reader = _Gatherer()
        self.start(reader)
        await reader.over
        return reader.deltas

    async def aclose(self) -> None:
        """End all answers, and give the places in the engine back. Idempotent."""
        self._num_open = 0
        self._leave_engine()
        if self._watch is not None:
            self._watch.stop()
        for answer in self._answers:  # all of them at once, should this be cancelled
            answer.end()
        for answer in self._answers:
            await answer.aclose()

    def _give_up(self, error: ServerError) -> None:
        if self._num_open:  # otherwise its end is still being written
            self.fail(error)

    def _num_taken_tokens(self) -> int | None:
        """The tokens of all answers so far; None while they are not taken."""
        return None if self._is_paused else sum(answer.num_tokens for answer in self._answers)

    def _leave_engine(self) -> None:
        """Give back the places of answers that have ended, for others at once."""
        if self._slots is not None:
            self._slots.resize(min(self._num_open, self._slots.amounts[0]))


class _Gatherer:
    """Gathers all deltas; a task waits for the end alone."""

    put_json = None

    def __init__(self) -> None:
        self.deltas: list[TextDelta] = []
        self.over = asyncio.get_running_loop().create_future()

    def put(self, delta: TextDelta) -> None:
        self.deltas.append(delta)
        if delta.usage is not None and not self.over.done():
            self.over.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)


def _joined(deltas: Sequence[TextDelta]) -> TextDelta:
    """All deltas of an answer as one. One that is refused has no text and no calls."""
    last = deltas[-1]
    reasoning = "".join(delta.reasoning for delta in deltas)
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
        reasoning=reasoning,
    )


def _whole_calls(deltas: Sequence[TextDelta]) -> tuple[ToolCallDelta, ...]:
    """Each call as one piece; the end of the answer may have cut off the last one."""
    pieces: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        for piece in delta.tool_calls:
            pieces.setdefault(piece.index, []).append(piece)
    return tuple(
        replace(of_call[0], arguments="".join(piece.arguments for piece in of_call))
        for of_call in pieces.values()
    )
