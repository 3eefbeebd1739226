"""Tokenising a conversation's text: on the event loop when it is short, in a thread when it is long."""

import asyncio

from server.core import Conversation
from server.prompt.builder import Outline, PromptBuilder

__all__ = ["MAX_CHARS_ON_LOOP", "outline_of"]

# Texts up to this length tokenise in well under a millisecond: not worth a thread.
MAX_CHARS_ON_LOOP = 8192


async def outline_of(builder: PromptBuilder, conversation: Conversation) -> Outline:
    """The conversation's outline."""
    if conversation.num_text_chars <= MAX_CHARS_ON_LOOP:
        return builder.outline(conversation)
    return await asyncio.to_thread(builder.outline, conversation)
