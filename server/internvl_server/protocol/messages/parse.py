"""The parsers of `/v1/messages` and `/v1/messages/count_tokens`."""

from dataclasses import replace
from typing import Any

from internvl_server.core import (
    AnswerParams,
    Constraint,
    Conversation,
    SamplingParams,
    Tool,
    ToolChoice,
)
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.constraints import combine, tool_call_constraint
from internvl_server.protocol.fields import FieldTable, known_fields
from internvl_server.protocol.limits import check_length, check_lists, check_num_parts
from internvl_server.protocol.messages.convert import dropped_blocks, to_conversation
from internvl_server.protocol.messages.request import (
    COUNT_FIELDS,
    MESSAGES_FIELDS,
    CountTokensRequest,
    MessagesRequest,
    PromptFields,
)
from internvl_server.protocol.messages.tools import chosen_tools, offered_tools
from internvl_server.protocol.messages.unsupported import refuse_unsupported
from internvl_server.protocol.parsing import ParsedRequest, read_object, validate
from internvl_server.protocol.response_format import json_constraint
from internvl_server.protocol.sampling import to_answer_params, to_sampling_params
from internvl_server.protocol.thinking import with_thinking
from internvl_server.settings import LimitSettings, MediaSettings

__all__ = ["parse_count_tokens_request", "parse_messages_request"]

_MAX_STOPS = 64
# Edits of the context that only remove reasoning of earlier answers, which is never in it.
_NEUTRAL_EDITS = frozenset({"clear_thinking_20251015"})


def parse_messages_request(
    body: bytes, limits: LimitSettings, *, media: MediaSettings, ignore_unknown: bool = False
) -> ParsedRequest[MessagesRequest]:
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
    fields, unknown = _fields(body, limits, MESSAGES_FIELDS, ignore_unknown=ignore_unknown)
    request, inner = validate(MessagesRequest, fields, ignore_unknown=ignore_unknown)
    conversation, tools, choice = _prompt(request, media)
    sampling = to_sampling_params(
        request,
        max_tokens=request.max_tokens,
        answer_format=_answer_format(request, conversation),
        calls=tool_call_constraint(tools, choice),
    )
    return ParsedRequest(
        request,
        with_thinking(conversation, request, sampling.constraint),
        replace(
            sampling,
            # As in the API: an answer may also end where the context does.
            max_tokens=None,
            default_max_tokens=request.max_tokens,
            stop=_stops(request, sampling),
        ),
        to_answer_params(
            request,
            tool_choice=choice,
            tool_names=tuple([tool.name for tool in tools]),
            reasoning=request,
        ),
        unknown + inner + dropped_blocks(request.messages),
    )


def parse_count_tokens_request(
    body: bytes, limits: LimitSettings, *, media: MediaSettings, ignore_unknown: bool = False
) -> ParsedRequest[CountTokensRequest]:
    """As `parse_messages_request`, for `/v1/messages/count_tokens`."""
    fields, unknown = _fields(body, limits, COUNT_FIELDS, ignore_unknown=ignore_unknown)
    request, inner = validate(CountTokensRequest, fields, ignore_unknown=ignore_unknown)
    conversation, tools, choice = _prompt(request, media)
    constraint = combine(tool_call_constraint(tools, choice), _answer_format(request, conversation))
    return ParsedRequest(
        request,
        with_thinking(conversation, request, constraint),
        SamplingParams(constraint=constraint),
        AnswerParams(tool_choice=choice),
        unknown + inner + dropped_blocks(request.messages),
    )


def _prompt(
    body: PromptFields, media: MediaSettings
) -> tuple[Conversation, tuple[Tool, ...], ToolChoice]:
    """The conversation, the tools that are offered, and the choice among them."""
    tools = offered_tools(body.tools or (), body.messages)
    choice = chosen_tools(body.tool_choice, tools)
    shown = () if choice.mode == "none" else tools
    conversation = to_conversation(body.messages, body.system, shown, body.max_tiles, media)
    return conversation, tools, choice


def _answer_format(body: PromptFields, conversation: Conversation) -> Constraint | None:
    """The constraint of `output_config.format`, or of its older name `output_format`."""
    current = body.output_config.format if body.output_config else None
    chosen = current or body.output_format
    if chosen is None:
        return None
    param = "output_config.format" if current else "output_format"
    if current and body.output_format not in (None, current):
        raise InvalidRequestError(
            "'output_config.format' and 'output_format' differ. Give one of them.",
            param="output_format",
        )
    if conversation.continue_final_message:
        raise InvalidRequestError(
            f"'{param}' applies to the whole answer, but the last message of the assistant has already begun "
            "it. Leave out one of them.",
            param=param,
        )
    return json_constraint(chosen.schema_, param, is_strict=True)


def _stops(body: MessagesRequest, sampling: SamplingParams) -> tuple[str, ...]:
    """The strings of `stop_sequences`, and those of the extension `stop`."""
    return tuple(dict.fromkeys([*(body.stop_sequences or ()), *sampling.stop]))


def _fields(
    body: bytes, limits: LimitSettings, table: FieldTable, *, ignore_unknown: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields to validate, and the names of the ignored ones."""
    members = read_object(body)
    refuse_unsupported(members)
    if _edits_nothing(members.get("context_management")):
        del members["context_management"]
    fields, unknown = known_fields(members, table, ignore_unknown=ignore_unknown)
    check_lists(fields, limits)
    check_length(fields.get("stop_sequences"), "stop_sequences", _MAX_STOPS, "the server's")
    check_length(fields.get("messages"), "messages", limits.max_messages, "limits.max_messages")
    check_num_parts(fields.get("messages"), "messages", limits)
    for name in ("messages", "tools"):
        if isinstance(fields.get(name), list):
            entries = enumerate(fields[name])
            fields[name] = [_prepared(entry, f"{name}[{i}]", limits) for i, entry in entries]
    fields["system"] = _prepared(fields.get("system"), "system", limits)
    return fields, unknown


def _edits_nothing(management: Any) -> bool:  # noqa: ANN401  (any JSON value)
    edits = management.get("edits") if isinstance(management, dict) else None
    return isinstance(edits, list) and all(
        isinstance(edit, dict) and str(edit.get("type")) in _NEUTRAL_EDITS for edit in edits
    )


def _prepared(value: Any, path: str, limits: LimitSettings) -> Any:  # noqa: ANN401  (any JSON value)
    """A message, block or tool without null members, which answers contain that are sent back as history."""
    if isinstance(value, list):
        check_length(value, path, limits.max_parts, "limits.max_parts")
        return [_prepared(entry, f"{path}[{i}]", limits) for i, entry in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {name: member for name, member in value.items() if member is not None}
    for name in kept.keys() & {"content", "source"}:
        kept[name] = _prepared(kept[name], f"{path}.{name}", limits)
    return kept
