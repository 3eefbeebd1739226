"""The request body of `/v1/chat/completions`, and its parser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from internvl_server.protocol.chat.messages import ChatMessage
from internvl_server.protocol.fields import known_fields, without_empty_members
from internvl_server.protocol.limits import check_counts
from internvl_server.protocol.parsing import read_object, validate
from internvl_server.protocol.response_format import ResponseFormat, StructuredOutputs
from internvl_server.protocol.tools import ToolChoiceField, ToolList
from internvl_server.protocol.wire import Wire
from internvl_server.settings import LimitSettings

__all__ = [
    "ChatCompletionRequest",
    "ParsedChat",
    "StreamOptions",
    "parse_chat_fields",
    "parse_chat_request",
]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
MAX_LOGPROBS = 20


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatCompletionRequest(Wire):
    """The implemented fields; ranges are OpenAI's where it has the field."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    seed: Annotated[int, Field(ge=_INT64_MIN, le=_INT64_MAX)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: ToolList | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    # Extensions.
    top_k: Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_INT64_MAX)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


@dataclass(frozen=True, slots=True)
class ParsedChat:
    """A valid request, and the JSON paths of what was ignored in it."""

    body: ChatCompletionRequest
    ignored: tuple[str, ...] = ()


def parse_chat_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False
) -> ParsedChat:
    """Read and validate a request body. CPU-bound: call it off the event loop for large ones.

    Args:
        body: UTF-8 JSON.
        limits: How many of what it may have.
        ignore_unknown: Ignore unknown fields, and say which, instead of refusing them.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For a field that is not implemented.
    """
    return parse_chat_fields(read_object(body), limits, ignore_unknown=ignore_unknown)


def parse_chat_fields(
    body: Mapping[str, Any], limits: LimitSettings, *, ignore_unknown: bool = False
) -> ParsedChat:
    """As `parse_chat_request`, for a body that is an object already."""
    fields, unknown = known_fields(body, ignore_unknown=ignore_unknown)
    check_counts(fields, limits)
    if isinstance(fields.get("messages"), list):
        fields["messages"] = [without_empty_members(message) for message in fields["messages"]]
    request, inner = validate(ChatCompletionRequest, fields, ignore_unknown=ignore_unknown)
    return ParsedChat(request, unknown + inner)
