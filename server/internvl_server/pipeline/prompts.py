"""Turns a conversation or raw text into a prompt, with the tiles of its images."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from internvl_server.concurrency.budget import Budget
from internvl_server.concurrency.offload import MAX_TEXT_CHARS, MAX_TOKEN_IDS, offload
from internvl_server.core import Conversation, Prompt
from internvl_server.errors import EngineOverloadedError
from internvl_server.media.preparer import MediaPreparer
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton
from internvl_server.settings import LimitSettings

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
        limits: The default length of an answer, and how many tiles may be in flight.
    """

    def __init__(self, media: MediaPreparer, builder: PromptBuilder, limits: LimitSettings) -> None:
        self._media = media
        self._builder = builder
        self._default_max_tokens = limits.default_max_tokens
        self._tile_budget = Budget(
            limits.max_tiles_in_flight, _too_many_tiles, admits_oversized=True
        )

    async def prepare(
        self,
        conversation: Conversation,
        max_tokens: int | None,
        num_answers: int,
        owner: AsyncExitStack,
    ) -> Prompt:
        """Build the prompt of a conversation, with the tiles of its images and videos.

        Args:
            conversation: What to answer.
            max_tokens: The request's limit of the answer's length.
            num_answers: Number of answers; tiles are counted for each, because an engine may copy them.
            owner: Holds the tiles' permit.

        Raises:
            InvalidRequestError: The text, an image or a video cannot be used.
            EngineOverloadedError: Too many tiles are in flight; nothing was decoded.
        """
        skeleton = await tokenize_conversation(self._builder, conversation)
        if not skeleton.media_parts:
            return self._builder.build(skeleton, ())
        max_image_tokens = self._builder.max_image_tokens(
            skeleton, max_tokens, self._default_max_tokens
        )
        permit = owner.enter_context(self._tile_budget.reserve(0))
        tiles = await self._media.prepare(
            skeleton.media_parts,
            max_image_tokens=max_image_tokens,
            reserve_tiles=lambda num_tiles: permit.resize(num_tiles * num_answers),
        )
        return self._builder.build(skeleton, tiles)


def _too_many_tiles(num_tiles: int) -> EngineOverloadedError:
    return EngineOverloadedError(
        f"Too many image tiles are in flight ({num_tiles}). Retry shortly."
    )
