"""Everything between a validated request and an engine that works on it."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from internvl_server.concurrency.budget import Budget
from internvl_server.concurrency.offload import offload
from internvl_server.core import (
    AnswerParams,
    Conversation,
    GenerateRequest,
    ImageUsage,
    PixelValues,
    Prompt,
    SamplingParams,
    ToolCalls,
    Usage,
)
from internvl_server.engine.base import Capability, Engine
from internvl_server.errors import (
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
)
from internvl_server.media.pixels import to_pixel_values
from internvl_server.media.preparer import MediaPreparer
from internvl_server.output.text import AnswerText
from internvl_server.pipeline.answers import PipelineVocabulary, text_factory
from internvl_server.pipeline.capabilities import check_capabilities
from internvl_server.pipeline.generation import Choice, Generation
from internvl_server.pipeline.tokenization import tokenize_conversation, tokenize_raw
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.settings import LimitSettings

__all__ = ["Pipeline"]

_INT64 = 1 << 64


class Pipeline:
    """Everything between a validated conversation and an engine.

    Args:
        media: Fetches and tiles images.
        builder: Writes prompts.
        engine: Generates tokens.
        vocabulary: The model's tokens.
        limits: The default length of an answer, and how many tiles may be in flight.
    """

    def __init__(
        self,
        *,
        media: MediaPreparer,
        builder: PromptBuilder,
        engine: Engine,
        vocabulary: PipelineVocabulary,
        limits: LimitSettings,
    ) -> None:
        self._media = media
        self._builder = builder
        self._engine = engine
        self._vocabulary = vocabulary
        self._limits = limits
        self._tile_budget = Budget(
            limits.max_tiles_in_flight, _too_many_tiles, admits_oversized=True
        )

    async def prepare(
        self,
        request_id: str,
        conversation: Conversation,
        sampling: SamplingParams,
        answer: AnswerParams,
        owner: AsyncExitStack,
    ) -> Generation:
        """Do all that can refuse the request and hand it to the engine.

        Args:
            request_id: Names the request in log lines.
            conversation: What to answer.
            sampling: How.
            answer: How often, and what of it is shown.
            owner: Closing it aborts the generation and frees what it holds.

        Raises:
            InvalidRequestError: The request cannot be served; says which part and why.
            EngineUnavailableError: The engine is not running.
        """
        self._refuse_when_not_ready()
        sampling = self.check(sampling, answer, conversation)
        self._builder.check_length_of_text(conversation)
        prompt = await self._build(conversation, sampling)
        return await self._start(request_id, prompt, sampling, answer, owner)

    async def prepare_raw(
        self,
        request_id: str,
        raw: str | Sequence[int],
        sampling: SamplingParams,
        answer: AnswerParams,
        owner: AsyncExitStack,
    ) -> Generation:
        """As `prepare`, for a prompt that is no conversation.

        Args:
            request_id: Names the request in log lines.
            raw: Literal text, in which nothing is a control token, or the ids of tokens.
            sampling: How.
            answer: How often, and what of it is shown.
            owner: Closing it aborts the generation and frees what it holds.
        """
        self._refuse_when_not_ready()
        sampling = self.check(sampling, answer, None)
        prompt = await tokenize_raw(self._builder, raw)
        return await self._start(request_id, prompt, sampling, answer, owner)

    async def _start(
        self,
        request_id: str,
        prompt: Prompt,
        sampling: SamplingParams,
        answer: AnswerParams,
        owner: AsyncExitStack,
    ) -> Generation:
        default = self._limits.default_max_tokens
        model_ends = frozenset() if answer.ignore_eos else self._builder.stop_token_ids
        request = GenerateRequest(
            request_id=request_id,
            prompt_token_ids=prompt.token_ids,
            max_tokens=self._builder.resolve_max_tokens(prompt, sampling.max_tokens, default),
            sampling=sampling,
            stop_token_ids=model_ends | answer.stop_token_ids,
            images=prompt.images,
            pixel_values=await self._pixels(prompt, answer.num_choices, owner),
        )
        # From here on only counts: the tiles are large and an answer may take minutes.
        usage = _prompt_usage(prompt)
        del prompt
        new_text = text_factory(request, answer, self._vocabulary)
        choices = [
            await self._choose(request, index, new_text, owner)
            for index in range(answer.num_choices)
        ]
        generation = Generation(usage, choices)
        owner.push_async_callback(generation.aclose)
        return generation

    async def _choose(
        self,
        request: GenerateRequest,
        index: int,
        new_text: Callable[[], AnswerText],
        owner: AsyncExitStack,
    ) -> Choice:
        """Hand one choice to the engine: the same prompt and pixels, a seed of its own."""
        mine = await owner.enter_async_context(AsyncExitStack())
        if index:
            sampling = replace(request.sampling, seed=_next_seed(request.sampling.seed, index))
            request = replace(
                request, request_id=f"{request.request_id}-{index}", sampling=sampling
            )
        tokens = await mine.enter_async_context(self._engine.generate(request))
        return Choice(index, tokens, new_text(), mine)

    async def _build(self, conversation: Conversation, sampling: SamplingParams) -> Prompt:
        skeleton = await tokenize_conversation(self._builder, conversation)
        if not conversation.media_parts:
            return self._builder.build(skeleton, ())
        tiles = await self._media.prepare(
            conversation.media_parts,
            max_image_tokens=self._builder.max_image_tokens(
                skeleton, sampling.max_tokens, self._limits.default_max_tokens
            ),
        )
        return self._builder.build(skeleton, tiles)

    async def _pixels(
        self, prompt: Prompt, num_choices: int, owner: AsyncExitStack
    ) -> PixelValues | None:
        """The prompt's pixels, counted once for each choice: an engine may copy them for each."""
        if not prompt.tiles:
            return None
        num_tiles = sum(tiles.num_tiles for tiles in prompt.tiles)
        owner.enter_context(self._tile_budget.reserve(num_tiles * num_choices))
        return await offload(partial(to_pixel_values, prompt.tiles))

    def _refuse_when_not_ready(self) -> None:
        """Before pictures are fetched and decoded for nothing."""
        health = self._engine.health()
        if not health.is_ready:
            raise EngineUnavailableError(f"{health.reason} Try again shortly.")

    def check(
        self, sampling: SamplingParams, answer: AnswerParams, conversation: Conversation | None
    ) -> SamplingParams:
        """Refuse what this server or its engine cannot do, whether the engine runs or not.

        Returns:
            The parameters, without a constraint that is only a hint where the engine cannot follow it.

        Raises:
            InvalidRequestError: Names the request field.
        """
        if answer.num_choices > self._limits.max_choices:
            raise InvalidRequestError(
                f"'n' is {answer.num_choices}; the limit is {self._limits.max_choices} "
                "(limits.max_choices).",
                param="n",
            )
        self._check_ids("logit_bias", [token_id for token_id, _ in sampling.logit_bias])
        self._check_ids("stop_token_ids", answer.stop_token_ids)
        can_guide = Capability.GUIDED_TOOL_CALLS in self._engine.info.capabilities
        constraint = sampling.constraint
        if isinstance(constraint, ToolCalls) and constraint.is_hint and not can_guide:
            sampling = replace(sampling, constraint=None)
        check_capabilities(self._engine.info, sampling, answer, conversation)
        return sampling

    def _check_ids(self, param: str, token_ids: Sequence[int] | frozenset[int]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < self._vocabulary.size:
                raise InvalidRequestError(
                    f"'{param}' names the token {token_id}; this model's ids end at "
                    f"{self._vocabulary.size - 1}.",
                    param=param,
                )


def _too_many_tiles(num_tiles: int) -> EngineOverloadedError:
    return EngineOverloadedError(
        f"Too many image tiles are in flight ({num_tiles}). Retry shortly."
    )


def _next_seed(seed: int | None, index: int) -> int | None:
    """A choice's own seed: the request's plus its number, as a signed 64-bit integer."""
    if seed is None:
        return None
    wrapped = (seed + index) % _INT64
    return wrapped - _INT64 if wrapped >= _INT64 // 2 else wrapped


def _prompt_usage(prompt: Prompt) -> Usage:
    return Usage(
        num_prompt_tokens=prompt.num_tokens,
        num_completion_tokens=0,
        num_image_tokens=sum(span.num_image_tokens for span in prompt.images),
        images=tuple(ImageUsage(span.num_tiles, span.num_image_tokens) for span in prompt.images),
    )
