"""The messages of a conversation on the wire, and their content parts."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from internvl_server.protocol.tools import HistoryCall
from internvl_server.protocol.wire import Wire

__all__ = [
    "AssistantMessage",
    "ChatMessage",
    "FramesPart",
    "ImagePart",
    "RefusalPart",
    "SystemMessage",
    "TextContentPart",
    "ToolMessage",
    "UserMessage",
    "VideoPart",
]


class TextContentPart(Wire):
    """A `text` part."""

    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """Where the image is; `max_tiles` is this server's extension."""

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["low", "auto", "high", "original"] | None = None
    max_tiles: Annotated[int, Field(ge=1, le=40)] | None = None


class ImagePart(Wire):
    """An `image_url` part."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(Wire):
    """Where the video is; `num_frames` of it are looked at (this server's extension)."""

    url: Annotated[str, Field(min_length=1)]
    num_frames: Annotated[int, Field(ge=1)] | None = None


class VideoPart(Wire):
    """A `video_url` part."""

    type: Literal["video_url"]
    video_url: VideoUrl


class FramesPart(Wire):
    """A `video` part: the frames of a video, each the URL of an image."""

    type: Literal["video"]
    video: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


def _kind_of_content(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return "~parts" if isinstance(value, list) else "~text"


UserPart: TypeAlias = Annotated[
    TextContentPart | ImagePart | VideoPart | FramesPart, Field(discriminator="type")
]
ToolPart: TypeAlias = Annotated[TextContentPart | ImagePart, Field(discriminator="type")]
TextContent: TypeAlias = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[list[TextContentPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_kind_of_content),
]
UserContent: TypeAlias = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[UserPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_kind_of_content),
]
ToolContent: TypeAlias = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[ToolPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_kind_of_content),
]


class RefusalPart(Wire):
    """A `refusal` part: what the assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


AssistantPart: TypeAlias = Annotated[TextContentPart | RefusalPart, Field(discriminator="type")]
AssistantContent: TypeAlias = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[list[AssistantPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_kind_of_content),
]


class NamedMessage(Wire):
    """What all messages may have: a participant's name. The model's templates have no place for it."""

    name: str | None = None


class SystemMessage(NamedMessage):
    """Instructions; `developer` is the newer name of the same role."""

    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(NamedMessage):
    """What the user says and shows."""

    role: Literal["user"]
    content: UserContent


class AssistantMessage(NamedMessage):
    """An earlier answer: text, a refusal, tool calls, or several of them."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    tool_calls: list[HistoryCall] | None = None
    parsed: Any = None
    """The content, parsed: the SDK's message objects, sent back as they are, have it."""


class ToolMessage(NamedMessage):
    """The result of a tool, text and pictures; `tool_call_id` is the id of the call it answers."""

    role: Literal["tool"]
    content: ToolContent
    tool_call_id: str


ChatMessage: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
