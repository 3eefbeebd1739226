"""Puts images and videos where the text has marks for them.

Prompts for InternVL's own code have an `<image>` where an image belongs, those for LMDeploy an
`<IMAGE_TOKEN>`, and video prompts a `<video>`. The n-th mark of a message stands for its n-th image.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from internvl_server.core import (
    Content,
    Conversation,
    ImageReference,
    MediaPart,
    Message,
    Part,
    TextPart,
)

__all__ = ["place_media"]

# The spellings of a mark, the longest first; older versions of LMDeploy needed the first one.
_MARKS = {
    "image": ("<img><IMAGE_TOKEN></img>", "<IMAGE_TOKEN>", "<image>"),
    "video": ("<video>",),
}
_BLANK = " \t\r"

_Queues: TypeAlias = Mapping[str, deque[MediaPart]]


def place_media(conversation: Conversation) -> tuple[Conversation, tuple[str, ...]]:
    """Move the images and videos of each message to the marks in its text.

    If a message has as many marks as images, the marks are replaced, and likewise for videos. Otherwise
    they are text.

    Returns:
        The conversation, and a warning for each number of marks that differs from that of images or videos.
    """
    warnings: dict[str, None] = {}
    messages = [_placed(message, warnings) for message in conversation.messages]
    if any(new is not old for new, old in zip(messages, conversation.messages, strict=True)):
        conversation = replace(conversation, messages=tuple(messages))
    return conversation, tuple(warnings)


def _placed(message: Message, warnings: dict[str, None]) -> Message:
    queues = {}
    for kind in _MARKS:
        num_marks = sum(
            _num_marks(p.text, kind) for p in message.content if isinstance(p, TextPart)
        )
        media = deque(_media(message.content, kind))
        if num_marks and num_marks == len(media):
            queues[kind] = media
        elif num_marks and message.role != "assistant":
            warnings[_warning(kind, num_marks, len(media))] = None
    if not queues:
        return message
    return replace(message, content=tuple(_with_media(message.content, queues)))


def _num_marks(text: str, kind: str) -> int:
    # The longest spelling contains the second one.
    return sum(text.count(mark) for mark in _MARKS[kind][-2:])


def _media(content: Content, kind: str) -> Iterator[MediaPart]:
    return (p for p in content if not isinstance(p, TextPart) and _kind(p) == kind)


def _kind(part: MediaPart) -> str:
    return "image" if isinstance(part, ImageReference) else "video"


def _warning(kind: str, num_marks: int, num_media: int) -> str:
    return (
        f"The number of {kind} marks ({_MARKS[kind][-1]}) in a message is {num_marks}, the number of its "
        f"{kind}s is {num_media}, so the marks are text."
    )


def _with_media(content: Content, queues: _Queues) -> Iterator[Part]:
    for part in content:
        if isinstance(part, TextPart):
            yield from _replaced(part.text, queues)
        elif _kind(part) not in queues:
            yield part


def _replaced(text: str, queues: _Queues) -> Iterator[Part]:
    """The text with the next images and videos in place of its marks.

    A mark in a line of nothing but marks is like an image between two texts: the line is removed. Within a
    line, the image takes the place of the mark and nothing else changes.
    """
    texts, kinds = _cut(text, queues)
    is_alone = _alone(texts)
    for index, kind in enumerate(kinds):
        yield from _text(texts, index, is_alone)
        part = queues[kind].popleft()
        if isinstance(part, ImageReference) and not is_alone[index]:
            part = replace(part, is_inline=True)
        elif kind == "video" and not is_alone[index]:
            texts[index + 1] = texts[index + 1].removeprefix("\n")  # its frames are lines
        yield part
    yield from _text(texts, len(kinds), is_alone)


def _cut(text: str, queues: _Queues) -> tuple[list[str], list[str]]:
    """The texts between marks, and the kinds of the marks between them: one fewer."""
    texts = [text]
    kinds: list[str] = []
    for kind in queues:
        for mark in _MARKS[kind]:
            texts, kinds = _cut_at(texts, kinds, mark, kind)
    return texts, kinds


def _cut_at(
    texts: list[str], kinds: list[str], mark: str, kind: str
) -> tuple[list[str], list[str]]:
    new_texts: list[str] = []
    new_kinds: list[str] = []
    for text, after in zip(texts, [*kinds, None], strict=True):
        pieces = text.split(mark)
        new_texts += pieces
        new_kinds += [kind] * (len(pieces) - 1)
        if after is not None:
            new_kinds.append(after)
    return new_texts, new_kinds


def _alone(texts: list[str]) -> list[bool]:
    """For each mark between the texts, whether its line has nothing but marks and blanks."""
    before = _blank_so_far(text.rpartition("\n") for text in texts[:-1])
    after = _blank_so_far(text.partition("\n")[::-1] for text in reversed(texts[1:]))
    return [a and b for a, b in zip(before, reversed(after), strict=True)]


def _blank_so_far(texts: Iterator[tuple[str, str, str]]) -> list[bool]:
    """Whether the line is blank up to each mark; a text is its other lines, a line break and its part."""
    blank: list[bool] = []
    for _, line_break, part in texts:
        begins = bool(line_break) or not blank or blank[-1]
        blank.append(begins and not part.strip(_BLANK))
    return blank


def _text(texts: list[str], index: int, is_alone: list[bool]) -> Iterator[TextPart]:
    """A text between marks, without the ends that belong to removed lines."""
    text = texts[index]
    if index > 0 and is_alone[index - 1]:
        text = text.partition("\n")[2]
    if index < len(is_alone) and is_alone[index]:
        text = "".join(text.rpartition("\n")[:2])
    if text:
        yield TextPart(text)
