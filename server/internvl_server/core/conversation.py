"""What a client asks: messages with their parts, and the tools the model is told of."""

import json
from collections.abc import Mapping
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
    "Tool",
    "ToolCall",
    "ToolChoice",
    "VideoReference",
]

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class Detail(StrEnum):
    """How closely an image is looked at: the wire's `detail`."""

    LOW = "low"
    AUTO = "auto"
    HIGH = "high"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Literal text of a message; never holds control tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Where an image is to be had, and how closely to look at it.

    `url` is a `data:` or http(s) URL. `param` is the JSON path of the part in the request, for errors.
    `max_tiles`, when given, overrides what `detail` stands for.
    """

    url: str
    detail: Detail
    max_tiles: int | None
    param: str


@dataclass(frozen=True, slots=True)
class FrameList:
    """Frames of a video that the client cut itself, in order; each is looked at as one tile."""

    frames: tuple[ImageReference, ...]

    @property
    def num_frames(self) -> int:
        """How many there are."""
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class VideoReference:
    """Where a video file is to be had; `num_frames` of it, the midpoints of as many segments, are looked at.

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
    """A call of a tool that the model made in an earlier turn; `arguments` is JSON text of an object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call.

    `parameters` is its JSON schema. `is_strict` holds the arguments to it; otherwise they
    are only held to be a JSON object.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model calls tools. `names` are those it may call; empty means all of them.

    `none`: it does not. `auto`: it may. `required`: it calls at least one. With `is_parallel` false it
    calls one at most.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] = ()
    is_parallel: bool = True


NO_TOOLS = ToolChoice("none")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the parts are in the order the user gave them.

    `tool_calls` are an assistant's. `tool_call_id` is the call a tool's message answers.
    """

    role: Role
    content: Content
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """The message's images, in order; frames and videos are not among them."""
        return tuple(part for part in self.content if isinstance(part, ImageReference))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A validated list of messages, oldest first, and the tools the model is told of.

    With `continue_final_message` the answer goes on where the last message, an assistant's, breaks off.
    Without `add_generation_prompt` the prompt ends where the messages end.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    continue_final_message: bool = False
    add_generation_prompt: bool = True

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """Every image of every message, in order; frames and videos are not among them."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def media_parts(self) -> tuple[MediaPart, ...]:
        """All that is looked at, in the order of the prompt.

        Pictures are reindex in this order, an image as one, a video or list of frames as `num_frames`.
        """
        parts = (part for message in self.messages for part in message.content)
        return tuple(part for part in parts if not isinstance(part, TextPart))

    @property
    def num_text_chars(self) -> int:
        """Characters of literal text in all messages, calls included, and in the tools."""
        texts = [p.text for m in self.messages for p in m.content if isinstance(p, TextPart)]
        calls = [call for m in self.messages for call in m.tool_calls]
        texts += [text for call in calls for text in (call.id, call.name, call.arguments)]
        texts += [m.tool_call_id for m in self.messages if m.tool_call_id]
        texts += [text for t in self.tools for text in (t.name, t.description or "")]
        texts += [json.dumps(t.parameters, ensure_ascii=False) for t in self.tools]
        return sum(map(len, texts))
