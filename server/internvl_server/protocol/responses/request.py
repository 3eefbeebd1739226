"""The request body of `/v1/responses`, and its parser."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from internvl_server.protocol.chat.request import MAX_LOGPROBS
from internvl_server.protocol.fields import FieldTable, known_fields
from internvl_server.protocol.limits import check_input_counts
from internvl_server.protocol.parsing import read_object, validate
from internvl_server.protocol.responses.fields import COUNT_FIELDS, RESPONSES_FIELDS
from internvl_server.protocol.responses.items import InputItem
from internvl_server.protocol.responses.text_format import FunctionTool, TextConfig, ToolChoice
from internvl_server.protocol.responses.unsupported import refuse_hosted
from internvl_server.protocol.wire import Wire
from internvl_server.settings import LimitSettings

__all__ = [
    "InputTokensRequest",
    "ObfuscationOptions",
    "ParsedInputTokens",
    "ParsedResponses",
    "PromptFields",
    "ResponsesRequest",
    "parse_input_tokens_request",
    "parse_responses_request",
]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class ObfuscationOptions(Wire):
    """Options of a stream."""

    include_obfuscation: bool | None = None


def _kind_of_input(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return "~items" if isinstance(value, list) else "~text"


class PromptFields(Wire):
    """What becomes part of the prompt, or decides what the answer may be."""

    input: Annotated[
        Annotated[str, Tag("~text")]
        | Annotated[list[InputItem], Field(min_length=1), Tag("~items")],
        Discriminator(_kind_of_input),
    ]
    instructions: str | None = None
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class InputTokensRequest(PromptFields):
    """The fields of `/v1/responses/input_tokens`."""

    model: str | None = None


class ResponsesRequest(PromptFields):
    """The implemented fields; ranges are OpenAI's where it has the field."""

    model: str
    max_output_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    include: (
        Annotated[list[Literal["message.output_text.logprobs"]], Field(fail_fast=True)] | None
    ) = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: ObfuscationOptions | None = None
    service_tier: Literal["auto", "default"] | None = None
    # Labels: the answer repeats them.
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Extensions.
    top_k: Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=_INT64_MIN, le=_INT64_MAX)] | None = None
    stop: str | list[str] | None = None


@dataclass(frozen=True, slots=True)
class ParsedResponses:
    """A valid request, and the JSON paths of what was ignored in it."""

    body: ResponsesRequest
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedInputTokens:
    """As `ParsedResponses`, of a request to count."""

    body: InputTokensRequest
    ignored: tuple[str, ...] = ()


def parse_responses_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False
) -> ParsedResponses:
    """Read and validate a request body. CPU-bound: call it off the event loop for large ones.

    Args:
        body: UTF-8 JSON.
        limits: How many of what it may have.
        ignore_unknown: Ignore unknown fields, and say which, instead of refusing them.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For something that is not implemented.
    """
    fields, unknown = _fields(body, limits, RESPONSES_FIELDS, ignore_unknown=ignore_unknown)
    request, inner = validate(ResponsesRequest, fields, ignore_unknown=ignore_unknown)
    return ParsedResponses(request, unknown + inner)


def parse_input_tokens_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False
) -> ParsedInputTokens:
    """As `parse_responses_request`, for `/v1/responses/input_tokens`."""
    fields, unknown = _fields(body, limits, COUNT_FIELDS, ignore_unknown=ignore_unknown)
    request, inner = validate(InputTokensRequest, fields, ignore_unknown=ignore_unknown)
    return ParsedInputTokens(request, unknown + inner)


def _fields(
    body: bytes, limits: LimitSettings, table: FieldTable, *, ignore_unknown: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields to validate, and the names of those that were ignored."""
    fields, unknown = known_fields(read_object(body), ignore_unknown=ignore_unknown, table=table)
    check_input_counts(fields, limits)
    for name in ("input", "tools"):
        if isinstance(fields.get(name), list):
            fields[name] = [_without_nulls(entry) for entry in fields[name]]
    refuse_hosted(fields)
    return fields, unknown


def _without_nulls(entry: Any, *, is_part: bool = False) -> Any:  # noqa: ANN401  (any JSON value)
    """An item, and its parts, without members that are null: answers sent back as history have some."""
    if not isinstance(entry, dict):
        return entry
    kept = {name: value for name, value in entry.items() if value is not None}
    for name in () if is_part else ("content", "output"):
        if isinstance(kept.get(name), list):
            kept[name] = [_without_nulls(part, is_part=True) for part in kept[name]]
    return kept
