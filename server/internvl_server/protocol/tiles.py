"""The limit of tiles that a request sets for all of its images."""

from collections.abc import Sequence
from dataclasses import replace

from internvl_server.core import Detail, ImageReference, Message, Part

__all__ = ["with_max_tiles"]


def with_max_tiles(messages: Sequence[Message], max_tiles: int | None) -> tuple[Message, ...]:
    """The messages, whose images get the request's limit unless they have one or a `detail` themselves.

    Args:
        messages: Those of a conversation.
        max_tiles: The field of the request.
    """
    if max_tiles is None:
        return tuple(messages)
    return tuple(
        replace(message, content=tuple(_limited(part, max_tiles) for part in message.content))
        for message in messages
    )


def _limited(part: Part, max_tiles: int) -> Part:
    if not isinstance(part, ImageReference) or part.max_tiles is not None:
        return part
    return replace(part, max_tiles=max_tiles) if part.detail is Detail.AUTO else part
