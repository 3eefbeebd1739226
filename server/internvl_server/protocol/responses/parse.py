"""The parsers of `/v1/responses` and `/v1/responses/input_tokens`."""

from collections.abc import Mapping
from typing import Any

from internvl_server.core import (
    AnswerParams,
    Conversation,
    SamplingParams,
    Tool,
    ToolChoice,
)
from internvl_server.protocol.constraints import combine, tool_call_constraint
from internvl_server.protocol.fields import FieldTable, known_fields
from internvl_server.protocol.limits import check_length, check_lists, check_num_parts
from internvl_server.protocol.parsing import ParsedRequest, read_object, validate
from internvl_server.protocol.responses.convert import to_conversation
from internvl_server.protocol.responses.request import (
    COUNT_FIELDS,
    RESPONSES_FIELDS,
    InputTokensRequest,
    PromptFields,
    ResponsesRequest,
)
from internvl_server.protocol.responses.text_format import format_constraint
from internvl_server.protocol.responses.tools import chosen_tools
from internvl_server.protocol.responses.unsupported import refuse_hosted
from internvl_server.protocol.sampling import to_answer_params, to_sampling_params
from internvl_server.protocol.thinking import with_thinking
from internvl_server.protocol.tools import to_tool_choice, to_tools
from internvl_server.protocol.wire import check_stream_options
from internvl_server.settings import LimitSettings, MediaSettings

__all__ = ["parse_input_tokens_request", "parse_responses_request"]

_MAX_METADATA = 16
_LOGPROBS = "message.output_text.logprobs"


def parse_responses_request(
    body: bytes, limits: LimitSettings, *, media: MediaSettings, ignore_unknown: bool = False
) -> ParsedRequest[ResponsesRequest]:
    """Parse, validate and convert a request body. CPU-bound: large bodies belong in a thread.

    Args:
        body: UTF-8 JSON.
        limits: How long lists may be.
        media: How many frames of a video are used.
        ignore_unknown: Ignore unknown fields and list them instead of refusing them.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For something that is not implemented.
    """
    fields, unknown = _fields(body, limits, RESPONSES_FIELDS, ignore_unknown=ignore_unknown)
    request, inner = validate(ResponsesRequest, fields, ignore_unknown=ignore_unknown)
    check_stream_options(request.stream_options, stream=request.stream)
    conversation, tools, choice = _prompt(request, media)
    has_logprobs = bool(request.top_logprobs) or _LOGPROBS in (request.include or ())
    sampling = to_sampling_params(
        request,
        max_tokens=request.max_output_tokens,
        num_logprobs=(request.top_logprobs or 0) if has_logprobs else None,
        answer_format=format_constraint(request.text) if request.text else None,
        calls=tool_call_constraint(tools, choice),
    )
    return ParsedRequest(
        request,
        with_thinking(conversation, request, sampling.constraint),
        sampling,
        to_answer_params(
            request,
            tool_choice=choice,
            tool_names=tuple([tool.name for tool in tools]),
            reasoning=request,
        ),
        unknown + inner,
    )


def parse_input_tokens_request(
    body: bytes, limits: LimitSettings, *, media: MediaSettings, ignore_unknown: bool = False
) -> ParsedRequest[InputTokensRequest]:
    """As `parse_responses_request`, for `/v1/responses/input_tokens`."""
    fields, unknown = _fields(body, limits, COUNT_FIELDS, ignore_unknown=ignore_unknown)
    request, inner = validate(InputTokensRequest, fields, ignore_unknown=ignore_unknown)
    conversation, tools, choice = _prompt(request, media)
    answer_format = format_constraint(request.text) if request.text else None
    constraint = combine(tool_call_constraint(tools, choice), answer_format)
    return ParsedRequest(
        request,
        with_thinking(conversation, request, constraint),
        SamplingParams(constraint=constraint),
        AnswerParams(tool_choice=choice),
        unknown + inner,
    )


def _prompt(
    body: PromptFields, media: MediaSettings
) -> tuple[Conversation, tuple[Tool, ...], ToolChoice]:
    """The conversation, all tools of the request, and the choice among them."""
    tools = to_tools(body.tools or (), "tools[{}].name")
    mode, named = chosen_tools(body.tool_choice)
    choice = to_tool_choice(mode, named, tools, parallel=body.parallel_tool_calls)
    shown = () if choice.mode == "none" else tools
    conversation = to_conversation(body.input, body.instructions, shown, body.max_tiles, media)
    return conversation, tools, choice


def _fields(
    body: bytes, limits: LimitSettings, table: FieldTable, *, ignore_unknown: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields to validate, and the names of the ignored ones."""
    fields, unknown = known_fields(read_object(body), table, ignore_unknown=ignore_unknown)
    check_lists(fields, limits)
    check_length(fields.get("metadata"), "metadata", _MAX_METADATA, "OpenAI's")
    check_length(fields.get("input"), "input", limits.max_messages, "limits.max_messages")
    check_num_parts(fields.get("input"), "input", limits)
    for name in ("input", "tools"):
        if isinstance(fields.get(name), list):
            entries = enumerate(fields[name])
            fields[name] = [_prepared(entry, f"{name}[{i}]", limits) for i, entry in entries]
    refuse_hosted(fields)
    return fields, unknown


def _prepared(entry: Any, path: str, limits: LimitSettings) -> Any:  # noqa: ANN401  (any JSON value)
    """An item or a tool without nulls, which answers have when they are sent back as history."""
    if not isinstance(entry, dict):
        return entry
    kept = _without_nulls(entry)
    for name in ("content", "output"):
        parts = kept.get(name)
        check_length(parts, f"{path}.{name}", limits.max_parts, "limits.max_parts")
        if isinstance(parts, list):
            kept[name] = [_without_nulls(p) if isinstance(p, dict) else p for p in parts]
    return kept


def _without_nulls(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
