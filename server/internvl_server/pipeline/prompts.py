"""Turns a conversation or raw text into a prompt, with the tiles of its images."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from internvl_server.concurrency.budget import Budget
from internvl_server.concurrency.offload import (
    MAX_COPIED_IDS,
    MAX_TEXT_CHARS,
    MAX_TOKEN_IDS,
    offload,
)
from internvl_server.core import Conversation, ImageTiles, Prompt, SamplingParams
from internvl_server.errors import EngineOverloadedError
from internvl_server.media.preparer import MediaPreparer
from internvl_server.pipeline.lengths import Lengths, fewer_tiles_warnings
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton

__all__ = ["PromptPreparer", "tokenize_conversation", "tokenize_raw"]


async def tokenize_conversation(
    builder: PromptBuilder, conversation: Conversation
) -> PromptSkeleton:
    """The conversation's skeleton.

    Raises:
        ContextLengthExceededError: The text cannot fit, whatever its tokens are.
    """
    builder.check_length_of_text(conversation)
    render = partial(builder.skeleton, conversation)
    return await offload(render, size=conversation.num_text_chars, limit=MAX_TEXT_CHARS)


async def tokenize_raw(builder: PromptBuilder, raw: str | Sequence[int]) -> Prompt:
    """The prompt of literal text or of token ids; raises like `PromptBuilder.build_raw`."""
    limit = MAX_TEXT_CHARS if isinstance(raw, str) else MAX_TOKEN_IDS
    return await offload(partial(builder.build_raw, raw), size=len(raw), limit=limit)


class PromptPreparer:
    """Builds prompts within a budget of tiles.

    Args:
        media: Fetches, decodes and tiles images and videos.
        builder: Writes prompts.
        lengths: Says how many tokens images may have.
        max_tiles_in_flight: Most tiles of all requests.
    """

    def __init__(
        self,
        media: MediaPreparer,
        builder: PromptBuilder,
        lengths: Lengths,
        max_tiles_in_flight: int,
    ) -> None:
        self._media = media
        self._builder = builder
        self._lengths = lengths
        self._tile_budget = Budget(max_tiles_in_flight, _too_many_tiles, admits_oversized=True)

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
            owner: Holds the tiles' permit.

        Raises:
            InvalidRequestError: The text, an image or a video cannot be used.
            EngineOverloadedError: Too many tiles are in flight; nothing was decoded.
        """
        skeleton = await tokenize_conversation(self._builder, conversation)
        if not skeleton.media_parts:
            return await self._build(skeleton, ())
        permit = owner.enter_context(self._tile_budget.reserve(0))
        tiles = await self._media.prepare(
            skeleton.media_parts,
            budget=self._lengths.image_budget(conversation, skeleton, sampling),
            reserve_tiles=lambda num_tiles: permit.resize(num_tiles * num_answers),
        )
        prompt = await self._build(skeleton, tiles)
        return replace(prompt, warnings=prompt.warnings + fewer_tiles_warnings(tiles))

    async def _build(self, skeleton: PromptSkeleton, tiles: Sequence[ImageTiles]) -> Prompt:
        build = partial(self._builder.build, skeleton, tiles)
        return await offload(build, size=skeleton.num_tokens, limit=MAX_COPIED_IDS)


def _too_many_tiles(num_tiles: int) -> EngineOverloadedError:
    return EngineOverloadedError(
        f"Too many image tiles are in flight ({num_tiles}). Retry shortly."
    )
