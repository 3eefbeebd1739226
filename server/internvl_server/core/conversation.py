"""The conversation of a request: messages with their parts, and the tools listed in the prompt."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

__all__ = [
    "NO_TOOLS",
    "Content",
    "Conversation",
    "Detail",
    "FrameList",
    "ImageReference",
    "MediaPart",
    "Message",
    "Part",
    "Role",
    "TextPart",
    "Thinking",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "VideoReference",
]

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class Detail(StrEnum):
    """How finely an image is tiled: the wire's `detail`."""

    LOW = "low"
    MEDIUM = "medium"
    AUTO = "auto"
    HIGH = "high"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Literal text of a message; never holds control tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The URL of an image, and how finely to tile it.

    `url` is a `data:` or http(s) URL. `param` is the JSON path of the part in the request, for errors.
    `max_tiles`, when given, overrides `detail`. With `is_inline` it is within a line of the text, where it
    gets neither label nor line break.
    """

    url: str
    detail: Detail
    max_tiles: int | None
    param: str
    is_inline: bool = False


@dataclass(frozen=True, slots=True)
class FrameList:
    """Frames of a video that the client chose, in order; each becomes one tile."""

    frames: tuple[ImageReference, ...]

    @property
    def num_frames(self) -> int:
        """The number of frames."""
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class VideoReference:
    """The URL of a video, and how many of its frames the model sees: the midpoints of equal segments.

    `url` and `param` are as in `ImageReference`.
    """

    url: str
    num_frames: int
    param: str


MediaPart: TypeAlias = ImageReference | FrameList | VideoReference
Part: TypeAlias = TextPart | MediaPart


Content: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool in an earlier turn.

    `arguments` is the text the model wrote, usually the JSON text of an object; it may be cut off or wrong.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call.

    `parameters` is the JSON schema of the arguments. With `is_strict` the arguments must fit it; otherwise
    they may be any JSON object.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model calls tools. `names` are the tools it may call; empty means all of them.

    `none`: it calls none. `auto`: it may. `required`: it calls at least one. Without `is_parallel` it calls
    at most one.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] = ()
    is_parallel: bool = True


NO_TOOLS = ToolChoice("none")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the parts are in the order the user gave them.

    An assistant's message has `tool_calls`. A tool's message answers the call `tool_call_id`.
    """

    role: Role
    content: Content
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """The message's images, in order, without frames and videos."""
        return tuple(part for part in self.content if isinstance(part, ImageReference))


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether an answer begins with reasoning.

    `is_wanted` is None if the request leaves it to the server, and `param` the field that says otherwise.
    `excluded_by` is a field that says what the whole answer must be, so that there is no place for reasoning.
    """

    is_wanted: bool | None = None
    param: str = ""
    excluded_by: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A validated list of messages, oldest first, and the tools listed in the prompt.

    With `continue_final_message` the answer continues the last message, which is the assistant's. Without
    `add_generation_prompt` the prompt ends where the messages end. `thinking` says whether the answer begins
    with reasoning.

    `media_parts` are all images and videos in the order of the prompt, in which they are numbered: an image
    is one, a video or list of frames is `num_frames`. `num_text_chars` counts the characters of all literal
    text, including calls and tools; it is computed once, because tools can be long.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    continue_final_message: bool = False
    add_generation_prompt: bool = True
    thinking: Thinking = Thinking()
    media_parts: tuple[MediaPart, ...] = field(init=False, repr=False, compare=False)
    num_text_chars: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = [part for message in self.messages for part in message.content]
        media = tuple([part for part in parts if not isinstance(part, TextPart)])
        object.__setattr__(self, "media_parts", media)
        object.__setattr__(self, "num_text_chars", sum(map(len, self._texts())))

    @property
    def num_earlier_media(self) -> int:
        """How many of `media_parts`, the first ones, belong to earlier turns.

        A turn is what the user and tools say between two messages of the assistant. The newest turn here
        is the last one that has images or videos.
        """
        turns = [0]
        for message in self.messages:
            if message.role == "assistant":
                turns.append(0)
            turns[-1] += sum(not isinstance(part, TextPart) for part in message.content)
        sizes = [size for size in turns if size]
        return sum(sizes[:-1])

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """All images of all messages, in order, without frames and videos."""
        return tuple([part for part in self.media_parts if isinstance(part, ImageReference)])

    def _texts(self) -> Iterator[str]:
        for message in self.messages:
            yield from (part.text for part in message.content if isinstance(part, TextPart))
            for call in message.tool_calls:
                yield from (call.id, call.name, call.arguments)
            yield message.tool_call_id or ""
        for tool in self.tools:
            yield from (tool.name, tool.description or "")
            yield json.dumps(tool.parameters, ensure_ascii=False)
