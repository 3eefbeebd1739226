"""Turns a validated request into a running generation, or refuses it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

from internvl_server.core import (
    AnswerParams,
    Constraint,
    Conversation,
    GenerateRequest,
    Prompt,
    SamplingParams,
)
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.base import Engine
from internvl_server.errors import (
    EngineError,
    EngineUnavailableError,
    Field,
    InvalidRequestError,
)
from internvl_server.media.preparer import MediaPreparer
from internvl_server.output.text import AnswerText
from internvl_server.pipeline.answers import Answer
from internvl_server.pipeline.budgets import Budgets
from internvl_server.pipeline.checks import resolve_sampling
from internvl_server.pipeline.conformity import CheckedAnswer, SchemaChecker
from internvl_server.pipeline.generation import Generation
from internvl_server.pipeline.lengths import Lengths
from internvl_server.pipeline.prompts import (
    Accepted,
    PromptPreparer,
    prompt_usage,
    tokenize_raw,
)
from internvl_server.pipeline.watch import Patience
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.telemetry.record import Stage, stage
from internvl_server.telemetry.tokens import TokenMeter

__all__ = ["Pipeline"]

_INT64 = 1 << 64


class Pipeline:
    """Turns a validated request into a running generation.

    Args:
        media: Fetches and tiles images.
        builder: Writes prompts.
        engine: Generates tokens.
        vocabulary: The model's tokens.
        lengths: Says how many tokens images and answers may have.
        budgets: What all requests together may hold, and the limits of each.

    Attributes:
        meter: Counts the tokens of all answers.
    """

    def __init__(
        self,
        *,
        media: MediaPreparer,
        builder: PromptBuilder,
        engine: Engine,
        vocabulary: Vocabulary,
        lengths: Lengths,
        budgets: Budgets,
    ) -> None:
        self._prompts = PromptPreparer(media, builder, lengths, budgets)
        self._slots = budgets.slots
        self._max_slots = budgets.num_slots
        self._builder = builder
        self._engine = engine
        self._vocabulary = vocabulary
        self._checker = SchemaChecker()
        self._lengths = lengths
        limits = budgets.limits
        self._max_choices = limits.max_choices
        self._running: set[Generation] = set()
        self.meter = TokenMeter()
        self._patience = Patience(limits.first_token_timeout_s, limits.next_token_timeout_s)

    async def close(self) -> None:
        """Check no more answers. Idempotent."""
        await self._checker.close()

    def end_stalled(self, timeout_s: float) -> None:
        """End all requests with an error if the engine has made no progress for so many seconds."""
        silence_s = self._engine.health().silence_s
        if silence_s <= timeout_s:
            return
        for generation in tuple(self._running):
            generation.break_off(
                EngineError(
                    f"The engine has made no progress for {silence_s:.0f} s.", code="engine_stalled"
                )
            )

    def check_ready(self) -> None:
        """Refuse a request before its body is read.

        Raises:
            EngineUnavailableError: The engine cannot produce a token now.
        """
        health = self._engine.health()
        if not health.is_ready:
            raise EngineUnavailableError(f"{health.reason} Try again shortly.")

    def resolve_sampling(
        self, sampling: SamplingParams, answer: AnswerParams, conversation: Conversation | None
    ) -> tuple[SamplingParams, tuple[str, ...]]:
        """Refuse parameters that this server or its engine does not support, whether it is ready or not.

        Returns:
            The parameters, without a constraint that is only a hint where the engine cannot follow it, and
            sentences about what the engine does otherwise than the request says.

        Raises:
            InvalidRequestError: Names the request field.
        """
        if answer.num_choices > self._max_choices:
            raise InvalidRequestError(
                f"'n' is {answer.num_choices}; the limit is {self._max_choices} (limits.max_choices).",
                param="n",
                code="invalid_value",
            )
        vocab_size = self._vocabulary.size
        return resolve_sampling(self._engine.info, vocab_size, sampling, answer, conversation)

    async def prepare(
        self,
        request_id: str,
        conversation: Conversation,
        sampling: SamplingParams,
        answer: AnswerParams,
        owner: AsyncExitStack,
    ) -> Generation:
        """Do everything that can refuse the request and hand it to the engine.

        Args:
            request_id: Names the request in log lines.
            conversation: What to answer.
            sampling: How to choose tokens.
            answer: The number of answers, and which parts of them are visible.
            owner: Closing it aborts the generation and frees what it holds.

        Raises:
            InvalidRequestError: The request cannot be served; says which part and why.
            EngineOverloadedError: Memory for the images, or a place in the engine, did not become free in
                time.
            EngineUnavailableError: The engine is not running.
        """
        sampling, warnings = self.resolve_sampling(sampling, answer, conversation)
        answer, loose = await self._compile(sampling.constraint, answer)
        prompt = await self._prompts.prepare(conversation, sampling, answer.num_choices, owner)
        if warnings or loose:
            prompt = replace(prompt, warnings=(*warnings, *loose, *prompt.warnings))
        accepted = [self._accept(request_id, prompt, sampling, answer)]
        del prompt  # its tiles are large and an answer may take minutes
        return await self._start(accepted, answer, owner)

    async def prepare_raw(
        self,
        request_id: str,
        prompts: Sequence[str | Sequence[int]],
        sampling: SamplingParams,
        answer: AnswerParams,
        owner: AsyncExitStack,
    ) -> Generation:
        """As `prepare`, for raw prompts; answer i to prompt p has the index p times `num_choices` plus i.

        Args:
            request_id: Names the request in log lines.
            prompts: Literal text, in which nothing is a control token, or token ids; at least one.
            sampling: How to choose tokens, for all of them.
            answer: The number of answers to each, and which parts of them are visible.
            owner: Closing it aborts the generation and frees what it holds.
        """
        sampling, warnings = self.resolve_sampling(sampling, answer, None)
        answer, loose = await self._compile(sampling.constraint, answer)
        accepted: list[Accepted] = []
        for index, raw in enumerate(prompts):
            if index:  # many short prompts take as long as a long one
                await asyncio.sleep(0)
            with _naming_prompt(index, len(prompts)):
                prompt = await tokenize_raw(self._builder, raw)
                prompt = replace(prompt, warnings=(*warnings, *loose))
                accepted.append(self._accept(f"{request_id}.{index}", prompt, sampling, answer))
        return await self._start(accepted, answer, owner)

    async def _compile(
        self, constraint: Constraint | None, answer: AnswerParams
    ) -> tuple[AnswerParams, tuple[str, ...]]:
        """Compile the constraint; returns a sentence if the engine does not enforce all of it."""
        loosened = () if constraint is None else await self._engine.compile(constraint)
        if constraint is None or not loosened:
            return answer, ()
        names = ", ".join(f"'{keyword}'" for keyword in loosened)
        sentence = (
            f"'{constraint.param}' has {names}, which only the finished answer is checked for."
        )
        return replace(answer, is_checked=True), (sentence,)

    def _accept(
        self, request_id: str, prompt: Prompt, sampling: SamplingParams, answer: AnswerParams
    ) -> Accepted:
        """What the engine gets for a prompt. Raises an error if it is too long."""
        model_ends = frozenset() if answer.ignore_eos else self._builder.stop_token_ids
        request = GenerateRequest(
            request_id=request_id,
            prompt_token_ids=prompt.token_ids,
            max_tokens=self._builder.resolve_max_tokens(
                prompt, sampling.max_tokens, self._lengths.default_max_tokens(sampling)
            ),
            sampling=sampling,
            stop_token_ids=model_ends | answer.stop_token_ids,
            images=prompt.images,
            pixel_values=tuple(tiles.pixels for tiles in prompt.tiles),
        )
        return Accepted(request, prompt_usage(prompt), prompt.warnings, prompt.answer_start)

    async def _start(
        self, accepted: list[Accepted], params: AnswerParams, owner: AsyncExitStack
    ) -> Generation:
        """Wait for places in the engine, and start all answers to all prompts.

        More answers than the engine computes at the same time wait in it.
        """
        num_answers = len(accepted) * params.num_choices
        with stage(Stage.QUEUE):
            slots = await self._slots.reserve(
                min(num_answers, self._max_slots),
                cost=sum(a.usage.num_prompt_tokens for a in accepted) + num_answers,
            )
        async with AsyncExitStack() as started:
            started.enter_context(slots)
            generations = []
            for index, one in enumerate(accepted):
                with _naming_prompt(index, len(accepted)):
                    answers = [
                        await self._generate(one, choice, params, started)
                        for choice in range(params.num_choices)
                    ]
                generations.append(Generation(one.usage, answers, warnings=one.warnings))
            generation = Generation.joined(generations)
            generation.hold(slots, self._patience)
            started.pop_all()  # the generation owns it all, which takes less memory for a stream's life
        self._running.add(generation)
        owner.push_async_callback(self._end, generation)
        return generation

    async def _end(self, generation: Generation) -> None:
        self._running.discard(generation)
        await generation.aclose()

    async def _generate(
        self,
        accepted: Accepted,
        index: int,
        params: AnswerParams,
        started: AsyncExitStack,
    ) -> Answer:
        """Start one answer: all have the same prompt and pixels, and different seeds."""
        request = accepted.request
        if index:
            sampling = replace(request.sampling, seed=_next_seed(request.sampling.seed, index))
            name = f"{request.request_id}-{index}"
            request = replace(request, request_id=name, sampling=sampling)
        stream = await started.enter_async_context(self._engine.generate(request))
        constraint = request.sampling.constraint
        checked = (
            CheckedAnswer(constraint, self._checker) if constraint and params.is_checked else None
        )
        text = AnswerText.of(request, params, self._vocabulary, accepted.start)
        one = Answer(index, stream, text, checked, meter=self.meter)
        started.push_async_callback(one.aclose)  # if another answer cannot be started
        return one


@contextmanager
def _naming_prompt(index: int, num_prompts: int) -> Iterator[None]:
    """Name one of several prompts in the errors about it."""
    try:
        yield
    except InvalidRequestError as error:
        if error.param is Field.PROMPT and num_prompts > 1:
            error.param = (Field.PROMPT, f"[{index}]")
        raise


def _next_seed(seed: int | None, index: int) -> int | None:
    """The seed of an answer: the request's plus the answer's index, as a signed 64-bit integer."""
    if seed is None:
        return None
    wrapped = (seed + index) % _INT64
    return wrapped - _INT64 if wrapped >= _INT64 // 2 else wrapped
