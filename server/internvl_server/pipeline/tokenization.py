"""Tokenizes prompts, in a thread if they are long."""

from collections.abc import Sequence
from functools import partial

from internvl_server.concurrency.offload import MAX_TEXT_CHARS, MAX_TOKEN_IDS, offload
from internvl_server.core import Conversation, Prompt
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton

__all__ = ["tokenize_conversation", "tokenize_raw"]


async def tokenize_conversation(
    builder: PromptBuilder, conversation: Conversation
) -> PromptSkeleton:
    """The conversation's skeleton."""
    render = partial(builder.skeleton, conversation)
    return await offload(render, size=conversation.num_text_chars, limit=MAX_TEXT_CHARS)


async def tokenize_raw(builder: PromptBuilder, raw: str | Sequence[int]) -> Prompt:
    """The prompt of literal text or of token ids; raises like `PromptBuilder.build_raw`."""
    limit = MAX_TEXT_CHARS if isinstance(raw, str) else MAX_TOKEN_IDS
    return await offload(partial(builder.build_raw, raw), size=len(raw), limit=limit)
