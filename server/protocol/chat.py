"""The request body of `/v1/chat/completions`, as far as it is implemented, and its parser."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import from_json

from server.errors import InvalidRequestError
from server.protocol.counts import check_counts
from server.protocol.fields import without_bookkeeping, without_empty_members
from server.protocol.violations import raise_first
from server.settings import LimitSettings

__all__ = [
    "AssistantMessage",
    "ChatCompletionRequest",
    "ChatMessage",
    "ImagePart",
    "SystemMessage",
    "TextContentPart",
    "ToolMessage",
    "UserMessage",
    "parse_chat_request",
]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class Wire(BaseModel):
    """What all wire objects share: no coercion between JSON types, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


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


def _kind_of_content(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return "~parts" if isinstance(value, list) else "~text"


UserPart: TypeAlias = Annotated[TextContentPart | ImagePart, Field(discriminator="type")]
TextContent: TypeAlias = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[list[TextContentPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_kind_of_content),
]
UserContent: TypeAlias = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[UserPart], Field(min_length=1), Tag("~parts")],
    Discriminator(_kind_of_content),
]


class SystemMessage(Wire):
    """Instructions; `developer` is the newer name of the same role."""

    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(Wire):
    """What the user says and shows."""

    role: Literal["user"]
    content: UserContent


class AssistantMessage(Wire):
    """An earlier answer."""

    role: Literal["assistant"]
    content: TextContent


class ToolMessage(Wire):
    """The result of a tool, as text; `tool_call_id` is the caller's bookkeeping."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: str | None = None


ChatMessage: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatCompletionRequest(Wire):
    """The implemented fields; ranges are OpenAI's where it has the field."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=_INT64_MIN, le=_INT64_MAX)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def parse_chat_request(body: bytes, limits: LimitSettings) -> ChatCompletionRequest:
    """Read and validate a request body. CPU-bound: call it off the event loop for large ones.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For a field that is not implemented.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as err:
        raise InvalidRequestError(
            "The body is not valid JSON (UTF-8, no NaN or Infinity, no half of a surrogate pair).",
            code="invalid_json",
        ) from err
    if not isinstance(value, dict):
        raise InvalidRequestError("The body must be a JSON object.", code="invalid_json")
    fields = without_bookkeeping(value)
    check_counts(fields, limits)
    if isinstance(fields.get("messages"), list):
        fields["messages"] = [without_empty_members(message) for message in fields["messages"]]
    try:
        return ChatCompletionRequest.model_validate(fields)
    except ValidationError as err:
        raise_first(err)
