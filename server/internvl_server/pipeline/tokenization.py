"""Tokenising a conversation's text: on the event loop when it is short, in a thread when it is long."""

import asyncio

from internvl_server.core import Conversation
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton

__all__ = ["MAX_CHARS_ON_LOOP", "tokenize_conversation"]

# Texts up to this length tokenise in well under a millisecond: not worth a thread.
MAX_CHARS_ON_LOOP = 8192


async def tokenize_conversation(
    builder: PromptBuilder, conversation: Conversation
) -> PromptSkeleton:
    """The conversation's skeleton."""
    if conversation.num_text_chars <= MAX_CHARS_ON_LOOP:
        return builder.skeleton(conversation)
    return await asyncio.to_thread(builder.skeleton, conversation)
