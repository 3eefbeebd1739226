"""A conversation as a list of segments, in the format InternVL2.5 and InternVL3 were trained on."""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Protocol

from internvl_server.core import (
    Content,
    Conversation,
    FrameList,
    ImageReference,
    Message,
    TextPart,
    VideoReference,
)
from internvl_server.prompt.hermes_tools import call_segments, result_segments, tools_segments
from internvl_server.prompt.segments import Control, ImagePlaceholder, Segment

__all__ = [
    "DEFAULT_SYSTEM_TEXT",
    "ImageNumbering",
    "InternVL25Template",
    "Template",
    "content_segments",
    "has_own_labels",
]

# The system text InternVL2.5 and InternVL3 were trained and evaluated with.
DEFAULT_SYSTEM_TEXT = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: E501

_END_OF_TURN: tuple[Segment, ...] = (Control("<|im_end|>"), "\n")

_OWN_LABEL = re.compile(r"\bImage-\d+\s*:", re.IGNORECASE)
_OWN_FRAME_LABEL = re.compile(r"\bFrame-?\d+\s*:", re.IGNORECASE)


class Template(Protocol):
    """Turns a conversation into segments that end where the model's answer begins.

    With `continue_final_message` that is inside the last message, which is then an assistant's without
    tool calls; without `add_generation_prompt` it is where the last turn ends.
    """

    @property
    def name(self) -> str:
        """The name settings and `/version` show."""

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt, in order."""


class InternVL25Template:
    """The `internvl2_5` conversation format of InternVL2.5 and InternVL3 (ChatML with its own system text).

    Tools, which that format does not know, are written as the text model was trained on them: described
    after the system text, called by the assistant, answered in one user turn for all calls. System
    messages after the first keep their place.
    """

    name = "internvl2_5"

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt, the default system text first when none is given."""
        images = ImageNumbering(conversation)
        first, *rest = conversation.messages
        system: list[Segment] = [DEFAULT_SYSTEM_TEXT]
        if first.role == "system":
            system = list(content_segments(first.content, images))
        else:
            rest = [first, *rest]
        segments = _turn("system", [*system, *tools_segments(conversation.tools)])
        for are_results, messages in groupby(rest, key=lambda message: message.role == "tool"):
            if are_results:
                results = [list(content_segments(m.content, images)) for m in messages]
                segments += _turn("user", result_segments(results))
            else:
                for message in messages:
                    segments += _turn(message.role, _body(message, images))
        if conversation.continue_final_message:
            return segments[: -len(_END_OF_TURN)]
        if not conversation.add_generation_prompt:
            return segments
        return [*segments, Control("<|im_start|>"), "assistant\n"]


class ImageNumbering:
    """Numbers the pictures of a request, and knows which get labels.

    Frames are labelled as InternVL's reference does, `Frame1: `, anew for each video. Videos are, when
    there are several; images, when there are several and the text does not label them itself.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.is_labelled = len(conversation.images) > 1 and not has_own_labels(conversation)
        self._num_videos = len(conversation.media_parts) - len(conversation.images)
        self._next_picture = self._next_image = self._next_video = 0

    def place(self) -> list[Segment]:
        """The next image: its label if any, its place, a newline."""
        self._next_image += 1
        label = [f"Image-{self._next_image}: "] if self.is_labelled else []
        return [*label, self._place(), "\n"]

    def place_video(self, num_frames: int) -> list[Segment]:
        """The next video: its label if any, then each frame on a line of its own."""
        self._next_video += 1
        segments: list[Segment] = [f"Video-{self._next_video}:\n"] if self._num_videos > 1 else []
        for number in range(1, num_frames + 1):
            segments += [f"Frame{number}: ", self._place(), "\n"]
        return segments

    def _place(self) -> ImagePlaceholder:
        self._next_picture += 1
        return ImagePlaceholder(self._next_picture - 1)


def has_own_labels(conversation: Conversation) -> bool:
    """Whether the texts beside the images already label them (`Image-1:`, or `Frame1:`).

    Only messages with images count: an answer that speaks of `Image-1:` must not change how the
    pictures of an earlier round are written. Beside a video, `Frame1:` may be of the video.
    """
    messages = [m for m in conversation.messages if m.images]
    return any(_labels_images(message) for message in messages)


def _labels_images(message: Message) -> bool:
    has_video = any(isinstance(part, FrameList | VideoReference) for part in message.content)
    texts = [part.text for part in message.content if isinstance(part, TextPart)]
    return any(
        _OWN_LABEL.search(text) or (not has_video and _OWN_FRAME_LABEL.search(text))
        for text in texts
    )


def content_segments(content: Content, images: ImageNumbering) -> Iterator[Segment]:
    """The parts of one message in order; an image, or a frame, is its place and a newline."""
    for part in content:
        if isinstance(part, ImageReference):
            yield from images.place()
        elif isinstance(part, TextPart):
            yield part.text
        else:
            yield from images.place_video(part.num_frames)


def _body(message: Message, images: ImageNumbering) -> list[Segment]:
    content = [segment for segment in content_segments(message.content, images) if segment]
    between: list[Segment] = ["\n"] if content and message.tool_calls else []
    return [*content, *between, *call_segments(message.tool_calls)]


def _turn(role: str, body: list[Segment]) -> list[Segment]:
    return [Control("<|im_start|>"), f"{role}\n", *body, *_END_OF_TURN]
