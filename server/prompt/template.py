"""A conversation as a list of segments: control tokens, literal text and image places.

A segment list, not a string: what is a control token and what merely looks like one is decided here, by
who wrote it, and cannot be confused later.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from server.core import Content, Conversation, ImageReference, Message, TextPart

__all__ = [
    "DEFAULT_SYSTEM_TEXT",
    "Control",
    "ImageNumbering",
    "ImagePlace",
    "InternVL25Template",
    "Segment",
    "Template",
    "content_segments",
    "has_own_labels",
]

# The system text InternVL2.5 and InternVL3 were trained and evaluated with.
DEFAULT_SYSTEM_TEXT = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: E501

_OWN_LABEL = re.compile(r"\bImage-\d+\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Control:
    """A control token, by its text."""

    name: str


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where the image with this index (request order) stands."""

    index: int


Segment: TypeAlias = str | Control | ImagePlace


class Template(Protocol):
    """Turns a conversation into segments that end where the model's answer begins."""

    @property
    def name(self) -> str:
        """The name settings and `/version` show."""

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt, in order."""


class InternVL25Template:
    """The `internvl2_5` conversation format of InternVL2.5 and InternVL3 (ChatML with its own system text).

    Deliberate additions: a tool message is a user turn wrapped in `<tool_response>`, the form the text
    model was trained on; system messages after the first keep their place.
    """

    name = "internvl2_5"

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt, the default system text first when none is given."""
        messages = conversation.messages
        segments: list[Segment] = []
        if messages[0].role != "system":
            segments += [Control("<|im_start|>"), "system\n", DEFAULT_SYSTEM_TEXT]
            segments += [Control("<|im_end|>"), "\n"]
        images = ImageNumbering(conversation)
        for message in messages:
            segments += _turn(message, images)
        return [*segments, Control("<|im_start|>"), "assistant\n"]


class ImageNumbering:
    """Numbers the images of a request, and knows whether they get labels."""

    def __init__(self, conversation: Conversation) -> None:
        self.is_labelled = len(conversation.images) > 1 and not has_own_labels(conversation)
        self._next = 0

    def place(self) -> list[Segment]:
        """The next image: its label if any, its place, a newline."""
        index = self._next
        self._next += 1
        label = [f"Image-{index + 1}: "] if self.is_labelled else []
        return [*label, ImagePlace(index), "\n"]


def has_own_labels(conversation: Conversation) -> bool:
    """Whether the texts beside the images already label them (`Image-1:`).

    Only messages with images count: an answer that speaks of `Image-1:` must not change how the
    pictures of an earlier round are written.
    """
    messages = [m for m in conversation.messages if m.images]
    parts = (part for message in messages for part in message.content)
    return any(isinstance(part, TextPart) and _OWN_LABEL.search(part.text) for part in parts)


def content_segments(content: Content, images: ImageNumbering) -> Iterator[Segment]:
    """The parts of one message in order; an image is its place and a newline."""
    for part in content:
        if isinstance(part, ImageReference):
            yield from images.place()
        elif isinstance(part, TextPart):
            yield part.text


def _turn(message: Message, images: ImageNumbering) -> list[Segment]:
    content = list(content_segments(message.content, images))
    role: str = message.role
    if role == "tool":
        role, content = "user", ["<tool_response>\n", *content, "\n</tool_response>"]
    return [Control("<|im_start|>"), f"{role}\n", *content, Control("<|im_end|>"), "\n"]
