"""The segments of a rendered prompt: control tokens, literal text and image placeholders.

A prompt is a list of segments and not a string, so that text that looks like a control token cannot be
confused with one.
"""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Control", "ImagePlaceholder", "Segment"]


@dataclass(frozen=True, slots=True)
class Control:
    """A control token, by its text. If the tokenizer lacks an optional one, it is encoded as literal text."""

    name: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class ImagePlaceholder:
    """Position of an image or frame; `index` counts all images and frames of the conversation."""

    index: int


Segment: TypeAlias = str | Control | ImagePlaceholder
