"""Turns a conversation or raw text into a prompt, with the tiles of its images."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from internvl_server.concurrency.offload import (
    MAX_COPIED_IDS,
    MAX_TEXT_CHARS,
    MAX_TOKEN_IDS,
    offload,
)
from internvl_server.core import (
    AnswerStart,
    Conversation,
    GenerateRequest,
    ImageTiles,
    ImageUsage,
    MediaPart,
    Prompt,
    SamplingParams,
    Usage,
)
from internvl_server.media.encoded import Reservation
from internvl_server.media.preparer import MediaPreparer
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.pipeline.budgets import Budgets
from internvl_server.pipeline.lengths import Lengths, fewer_tiles_warnings
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton
from internvl_server.telemetry.record import Stage, stage

__all__ = ["Accepted", "PromptPreparer", "prompt_usage", "tokenize_conversation", "tokenize_raw"]

# Before the sizes of its images are known, a request gets at most this part of all tiles.
_MAX_PART = 8


async def tokenize_conversation(
    builder: PromptBuilder, conversation: Conversation
) -> PromptSkeleton:
    """The conversation's skeleton.

    Raises:
        ContextLengthExceededError: The text cannot fit, whatever its tokens are.
    """
    builder.check_length_of_text(conversation)
    render = partial(builder.skeleton, conversation)
    with stage(Stage.TOKENIZE):
        return await offload(render, size=conversation.num_text_chars, limit=MAX_TEXT_CHARS)


async def tokenize_raw(builder: PromptBuilder, raw: str | Sequence[int]) -> Prompt:
    """The prompt of literal text or of token ids; raises like `PromptBuilder.build_raw`."""
    limit = MAX_TEXT_CHARS if isinstance(raw, str) else MAX_TOKEN_IDS
    with stage(Stage.TOKENIZE):
        return await offload(partial(builder.build_raw, raw), size=len(raw), limit=limit)


class PromptPreparer:
    """Builds prompts, and reserves memory for their images before these are fetched.

    Args:
        media: Fetches, decodes and tiles images and videos.
        builder: Writes prompts.
        lengths: Says how many tokens images may have.
        budgets: Memory for the images of all requests.
    """

    def __init__(
        self,
        media: MediaPreparer,
        builder: PromptBuilder,
        lengths: Lengths,
        budgets: Budgets,
    ) -> None:
        self._media = media
        self._builder = builder
        self._lengths = lengths
        self._budgets = budgets

    async def prepare(
        self,
        conversation: Conversation,
        sampling: SamplingParams,
        num_answers: int,
        owner: AsyncExitStack,
    ) -> Prompt:
        """Build the prompt of a conversation, with the tiles of its images and videos.

        Args:
            conversation: What to answer.
            sampling: Limits the answer's length.
            num_answers: Number of answers; tiles are counted for each, because an engine may copy them.
            owner: Releases the tiles.

        Raises:
            InvalidRequestError: The text, an image or a video cannot be used.
            EngineOverloadedError: There is no memory for them now; nothing was decoded.
        """
        skeleton = await tokenize_conversation(self._builder, conversation)
        parts = skeleton.media_parts
        if not parts:
            return await self._build(skeleton, ())
        budget = self._lengths.image_budget(conversation, skeleton, sampling)
        reservation = await self._reserve(parts, budget, num_answers, owner)
        tiles = await self._media.prepare(parts, budget=budget, reservation=reservation)
        prompt = await self._build(skeleton, tiles)
        return replace(prompt, warnings=prompt.warnings + fewer_tiles_warnings(tiles))

    async def _reserve(
        self,
        parts: Sequence[MediaPart],
        budget: ImageBudget,
        num_answers: int,
        owner: AsyncExitStack,
    ) -> Reservation:
        """Reserve what the images need at most, at once, so that no request waits with a part of it.

        Many answers multiply the tiles; of these only a part is reserved before their number is known, unless
        there are frames, which are decoded meanwhile.
        """
        self._budgets.check_memory_for_media()
        media = self._budgets.media
        demand = self._media.demand(parts, budget=budget)
        most = max(media.limits[1] // _MAX_PART, demand.min_tiles * num_answers)
        num_tiles = demand.max_tiles * num_answers
        if not demand.num_frames:
            num_tiles = min(num_tiles, most)
        share = await media.reserve(demand.num_bytes, num_tiles, cost=demand.max_tiles)
        owner.enter_context(share)
        return Reservation(share, num_frames=demand.num_frames, num_copies=num_answers)

    async def _build(self, skeleton: PromptSkeleton, tiles: Sequence[ImageTiles]) -> Prompt:
        build = partial(self._builder.build, skeleton, tiles)
        return await offload(build, size=skeleton.num_tokens, limit=MAX_COPIED_IDS)


@dataclass(frozen=True, slots=True)
class Accepted:
    """One prompt that the engine will get, with what is known about its answers."""

    request: GenerateRequest
    usage: Usage
    warnings: tuple[str, ...]
    start: AnswerStart


def prompt_usage(prompt: Prompt) -> Usage:
    """What a prompt takes."""
    return Usage(
        num_prompt_tokens=prompt.num_tokens,
        num_completion_tokens=0,
        num_image_tokens=sum(span.num_image_tokens for span in prompt.images),
        images=tuple(ImageUsage(span.num_tiles, span.num_image_tokens) for span in prompt.images),
    )
