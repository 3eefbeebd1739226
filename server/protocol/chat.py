"""The request body of `/v1/chat/completions`, as far as it is implemented, and its parser."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_core import from_json

from server.errors import InvalidRequestError
from server.protocol.counts import check_counts
from server.protocol.fields import without_bookkeeping, without_empty_members
from server.protocol.messages import ChatMessage
from server.protocol.violations import raise_first
from server.protocol.wire import Wire
from server.settings import LimitSettings

__all__ = ["ChatCompletionRequest", "parse_chat_request"]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


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
