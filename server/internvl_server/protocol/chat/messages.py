"""The wire objects of messages and of their content parts."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.tools import FunctionCall, HistoryCall, ToolList
from internvl_server.protocol.fields import Extension, Foreign
from internvl_server.protocol.fields.foreign import (
    BESIDE_IMAGE_URL,
    BESIDE_VIDEO_URL,
    FRAMES,
    MESSAGE,
    TILES,
)
from internvl_server.protocol.limits import check_length, check_num_parts
from internvl_server.protocol.thinking import ThinkingFields
from internvl_server.protocol.wire import ImageDetail, MaxTiles, TextOr, Wire
from internvl_server.settings import LimitSettings

__all__ = [
    "AssistantMessage",
    "ChatMessage",
    "ConversationFields",
    "FramesPart",
    "ImagePart",
    "ReasoningPart",
    "RefusalPart",
    "SystemMessage",
    "TextContentPart",
    "ToolMessage",
    "UserMessage",
    "VideoPart",
    "prepare_messages",
]


NumFrames: TypeAlias = Annotated[int, Field(ge=1)]


class TextContentPart(Wire):
    """A `text` part."""

    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """The URL of an image, and how finely it is tiled."""

    foreign: ClassVar[Mapping[str, Foreign]] = TILES

    url: Annotated[str, Field(min_length=1)]
    detail: ImageDetail = None
    max_tiles: MaxTiles | None = None
    """Maximum number of tiles of the image, overriding `detail`: an extension of this server."""


def _with_url(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    return {"url": value} if isinstance(value, str) else value


class ImagePart(Wire):
    """An `image_url` part; the URL alone may stand for its object, and its options beside it."""

    foreign: ClassVar[Mapping[str, Foreign]] = BESIDE_IMAGE_URL

    type: Literal["image_url"]
    image_url: Annotated[
        ImageUrl, BeforeValidator(_with_url, json_schema_input_type=ImageUrl | str)
    ]


class VideoUrl(Wire):
    """The URL of a video, and how many of its frames are used."""

    foreign: ClassVar[Mapping[str, Foreign]] = FRAMES

    url: Annotated[str, Field(min_length=1)]
    num_frames: NumFrames | None = None
    """Frames that the model sees: an extension of this server."""


class VideoPart(Wire):
    """A `video_url` part; as in `ImagePart`, the URL alone may stand for its object."""

    foreign: ClassVar[Mapping[str, Foreign]] = BESIDE_VIDEO_URL

    type: Literal["video_url"]
    video_url: Annotated[
        VideoUrl, BeforeValidator(_with_url, json_schema_input_type=VideoUrl | str)
    ]


class FramesPart(Wire):
    """A `video` part: the frames of a video, each the URL of an image."""

    type: Literal["video"]
    video: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class RefusalPart(Wire):
    """A `refusal` part: the assistant's refusal to answer."""

    type: Literal["refusal"]
    refusal: str


class ReasoningPart(Wire):
    """Earlier reasoning. The model does not see it again, so all its members are unknown."""

    type: Literal["reasoning", "thinking", "redacted_thinking"]


MediaPart: TypeAlias = Annotated[
    TextContentPart | ImagePart | VideoPart | FramesPart, Field(discriminator="type")
]
AssistantPart: TypeAlias = Annotated[
    TextContentPart | ImagePart | VideoPart | FramesPart | RefusalPart | ReasoningPart,
    Field(discriminator="type"),
]
MediaContent: TypeAlias = TextOr[list[MediaPart]]
AssistantContent: TypeAlias = TextOr[list[AssistantPart]]


class NamedMessage(Wire):
    """A message with a participant's name, which the model's prompt formats do not show."""

    foreign: ClassVar[Mapping[str, Foreign]] = MESSAGE

    name: str | None = None


class SystemMessage(NamedMessage):
    """Instructions, anywhere in the conversation; `developer` is the newer name of the same role."""

    role: Literal["system", "developer"]
    content: MediaContent


class UserMessage(NamedMessage):
    """Text, images and videos of the user."""

    role: Literal["user"]
    content: MediaContent


class AssistantMessage(NamedMessage):
    """An earlier answer: text, a refusal, tool calls, or several of them; it may be empty.

    The model does not see its reasoning again.
    """

    foreign: ClassVar[Mapping[str, Foreign]] = {
        **MESSAGE,
        "reasoning_content": Foreign(is_known=True),
    }

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    tool_calls: list[HistoryCall] | None = None
    function_call: FunctionCall | None = None
    """The older form of one call."""
    parsed: Any = None
    """The parsed content, which the SDK's message objects have when they are sent back."""


class ToolMessage(NamedMessage):
    """The result of a tool; `tool_call_id` is the id of the call it answers."""

    role: Literal["tool"]
    content: MediaContent = ""
    tool_call_id: str = ""


class FunctionMessage(NamedMessage):
    """The older form of a tool's result."""

    role: Literal["function"]
    content: MediaContent = ""


ChatMessage: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class ConversationFields(ThinkingFields):
    """The fields that become the prompt."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    """System, user, assistant and tool messages."""
    tools: ToolList | None = None
    """Functions, at most `limits.max_tools`."""
    continue_final_message: Annotated[bool | None, Extension()] = None
    """The answer continues the last message, which is the assistant's."""
    add_generation_prompt: Annotated[bool | None, Extension()] = None
    """`false`: the prompt ends where the messages end."""
    max_tiles: Annotated[MaxTiles | None, Extension()] = None
    """1 to 40: maximum number of tiles of each image without `max_tiles`, if its `detail` is `auto`."""
    num_frames: Annotated[NumFrames | None, Extension()] = None
    """Number of frames of each video without `num_frames`."""


def prepare_messages(fields: dict[str, Any], limits: LimitSettings) -> None:
    """Check the lengths of all lists in `messages`, and remove null and empty members.

    Anything else that is wrong is left to the validator.

    Args:
        fields: A body with `messages`, which are replaced.
        limits: How long lists may be.

    Raises:
        InvalidRequestError: Names the list, its length and the limit.
    """
    messages = fields.get("messages")
    check_length(messages, "messages", limits.max_messages, "limits.max_messages")
    check_num_parts(messages, "messages", limits)
    if isinstance(messages, list):
        fields["messages"] = [
            _prepared(message, f"messages[{index}]", limits)
            if isinstance(message, dict)
            else message
            for index, message in enumerate(messages)
        ]


def _prepared(message: Mapping[str, Any], path: str, limits: LimitSettings) -> dict[str, Any]:
    """A message without null and empty members.

    The SDK's own message objects, sent back as history, are full of nulls and empty lists
    (`refusal: null`, `annotations: []`).
    """
    calls, parts = message.get("tool_calls"), message.get("content", "")
    if parts is None and message.get("role") in _WITH_CONTENT:
        raise InvalidRequestError(
            f"Invalid value for '{path}.content': it is null, as it may only be in messages of the assistant "
            "and of tools. Write a text, or leave the message out.",
            param=f"{path}.content",
            code="invalid_value",
        )
    check_length(parts, f"{path}.content", limits.max_parts, "limits.max_parts")
    check_length(calls, f"{path}.tool_calls", limits.max_tools, "limits.max_tools")
    kept = {k: v for k, v in message.items() if v is not None and not (v == [] and k in _LISTS)}
    if isinstance(parts, list):
        kept["content"] = [
            _prepared_part(part, f"{path}.content[{index}]", limits)
            if isinstance(part, dict)
            else part
            for index, part in enumerate(parts)
        ]
    return kept


_LISTS = frozenset({"annotations", "tool_calls"})
_WITH_CONTENT = ("system", "developer", "user")
_URLS = frozenset({"image_url", "video_url"})


def _prepared_part(part: Mapping[str, Any], path: str, limits: LimitSettings) -> dict[str, Any]:
    """A part without nulls. The frames of a `video` part are as many as parts may be."""
    check_length(part.get("video"), f"{path}.video", limits.max_parts, "limits.max_parts")
    kept = {name: value for name, value in part.items() if value is not None}
    return kept | {name: _with_url(kept[name]) for name in kept.keys() & _URLS}
