"""What a rendered prompt is made of: control tokens, literal text and places of images.

A segment list, not a string: what is a control token and what merely looks like one is decided by who
wrote it, and cannot be confused later.
"""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Control", "ImagePlaceholder", "Segment"]


@dataclass(frozen=True, slots=True)
class Control:
    """A control token, by its text. An optional one is that text where the tokenizer has no such token."""

    name: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class ImagePlaceholder:
    """Position of the image or video frame with this index in `Conversation.media_parts`."""

    index: int


Segment: TypeAlias = str | Control | ImagePlaceholder
