"""A conversation as a list of segments, in the format InternVL2.5, 3 and 3.5 were trained on."""

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
]

# The system text InternVL2.5, 3 and 3.5 were trained and evaluated with.
DEFAULT_SYSTEM_TEXT = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: E501

_END_OF_TURN: tuple[Segment, ...] = (Control("<|im_end|>"), "\n")

# `Image-1:` as the authors write it, `Image 1:`, `Picture #2:`, `图1：`, `图片二：` and the like.
_IMAGE_WORDS = (
    "image|imagen|immagine|img|picture|pic|photo|bild|画像|写真|照片|이미지|사진|[图圖][片像]?"
)
_NUMBER = r"[\s_#-]{0,3}[\d一二三四五六七八九十]{1,4}\s{0,3}[:：]"
_BEFORE = r"(?<![a-z])"  # languages like Chinese have no spaces before these words
_OWN_LABEL = re.compile(rf"{_BEFORE}(?:{_IMAGE_WORDS}){_NUMBER}", re.IGNORECASE)
_OWN_FRAME_LABEL = re.compile(rf"{_BEFORE}(?:frame|帧){_NUMBER}", re.IGNORECASE)
_OWN_VIDEO_LABEL = re.compile(rf"{_BEFORE}(?:video|clip|视频|動画){_NUMBER}", re.IGNORECASE)
_MAX_LABEL_CHARS = 32
_SLICE_CHARS = 100_000


class Template(Protocol):
    """Renders a conversation to segments that end where the model's answer begins.

    With `continue_final_message` they end inside the last message, which is from the assistant and has no
    tool calls; without `add_generation_prompt` they end after the last turn.
    """

    @property
    def name(self) -> str:
        """The name in settings and in `/version`."""

    @property
    def has_thinking_switch(self) -> bool:
        """Whether it writes what a conversation's `thinking` asks for."""

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt, in order."""


class InternVL25Template:
    """The `internvl2_5` conversation format of InternVL2.5, 3 and 3.5 (ChatML with its own system text).

    That format has no tools. They are written in the format the language model was trained on: described
    after the system text, called by the assistant, and answered in one user turn for all calls. System
    messages after the first stay where they are.
    """

    name = "internvl2_5"
    has_thinking_switch = False

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt; it begins with the default system text unless there is one."""
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
    """Numbers the images, videos and frames of a request, and labels them.

    Frames are labelled as in InternVL's reference, `Frame1: `, starting over with each video. Images and
    videos are labelled if there are several and the text does not label them itself.
    """

    def __init__(self, conversation: Conversation) -> None:
        num_images = len(conversation.images)
        num_videos = len(conversation.media_parts) - num_images
        self.is_labelled = num_images > 1 and not _has_own_labels(conversation)
        self._labels_videos = num_videos > 1 and not _has_own_video_labels(conversation)
        self._num_placeholders = self._next_image = self._next_video = 0

    def placeholder(self, *, is_inline: bool = False) -> list[Segment]:
        """The next image: its label if any, its placeholder and a newline; in a line only the placeholder."""
        self._next_image += 1
        if is_inline:
            return [self._new_placeholder()]
        label = [f"Image-{self._next_image}: "] if self.is_labelled else []
        return [*label, self._new_placeholder(), "\n"]

    def video_placeholders(self, num_frames: int) -> list[Segment]:
        """The next video: its label if any, then each frame on a separate line."""
        self._next_video += 1
        segments: list[Segment] = [f"Video-{self._next_video}:\n"] if self._labels_videos else []
        for number in range(1, num_frames + 1):
            segments += [f"Frame{number}: ", self._new_placeholder(), "\n"]
        return segments

    def _new_placeholder(self) -> ImagePlaceholder:
        self._num_placeholders += 1
        return ImagePlaceholder(self._num_placeholders - 1)


def _has_own_labels(conversation: Conversation) -> bool:
    """Whether the texts next to the images already label them (`Image-1:`, or `Frame1:`).

    Only messages with images count: an answer that mentions `Image-1:` must not change how the images of
    an earlier turn are written. Next to a video, `Frame1:` may refer to the video.
    """
    messages = [m for m in conversation.messages if m.images]
    return any(_labels_images(message) for message in messages)


def _has_own_video_labels(conversation: Conversation) -> bool:
    messages = [message for message in conversation.messages if _has_video(message)]
    return any(_has(text, _OWN_VIDEO_LABEL) for message in messages for text in _texts(message))


def _labels_images(message: Message) -> bool:
    patterns = [_OWN_LABEL] if _has_video(message) else [_OWN_LABEL, _OWN_FRAME_LABEL]
    return any(_has(text, pattern) for text in _texts(message) for pattern in patterns)


def _has_video(message: Message) -> bool:
    return any(isinstance(part, FrameList | VideoReference) for part in message.content)


def _texts(message: Message) -> list[str]:
    return [part.text for part in message.content if isinstance(part, TextPart)]


def _has(text: str, pattern: re.Pattern[str]) -> bool:
    """Whether the text has a match; a search holds the interpreter lock, so it is made in slices."""
    ends = range(_SLICE_CHARS, len(text) + _SLICE_CHARS, _SLICE_CHARS)
    return any(pattern.search(text, end - _SLICE_CHARS, end + _MAX_LABEL_CHARS) for end in ends)


def content_segments(content: Content, images: ImageNumbering) -> Iterator[Segment]:
    """The parts of one message in order; an image or frame becomes a placeholder and a newline."""
    for part in content:
        if isinstance(part, ImageReference):
            yield from images.placeholder(is_inline=part.is_inline)
        elif isinstance(part, TextPart):
            yield part.text
        else:
            yield from images.video_placeholders(part.num_frames)


def _body(message: Message, images: ImageNumbering) -> list[Segment]:
    content = [segment for segment in content_segments(message.content, images) if segment]
    between: list[Segment] = ["\n"] if content and message.tool_calls else []
    return [*content, *between, *call_segments(message.tool_calls)]


def _turn(role: str, body: list[Segment]) -> list[Segment]:
    return [Control("<|im_start|>"), f"{role}\n", *body, *_END_OF_TURN]
