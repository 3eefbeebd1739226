"""The request body of `/v1/chat/completions`, and its parser."""

from typing import Annotated, Any

from pydantic import Field

from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.convert import to_conversation
from internvl_server.protocol.chat.messages import ConversationFields, prepare_messages
from internvl_server.protocol.chat.tools import ToolChoiceField, chosen_tools
from internvl_server.protocol.constraints import tool_call_constraint
from internvl_server.protocol.fields import FieldTable, Foreign, Needs, known_fields
from internvl_server.protocol.fields.foreign import (
    ANSWER,
    CHAT_CONVERSATION,
    OPTIONS,
    token_limit,
)
from internvl_server.protocol.limits import check_lists
from internvl_server.protocol.parsing import ParsedRequest, read_object, validate
from internvl_server.protocol.response_format import ResponseFormat, format_constraint
from internvl_server.protocol.sampling import (
    MAX_LOGPROBS,
    SamplingFields,
    to_answer_params,
    to_sampling_params,
)
from internvl_server.protocol.thinking import ReasoningFields, with_thinking
from internvl_server.protocol.tools import to_tool_choice, to_tools
from internvl_server.protocol.wire import (
    MaxTokens,
    ServiceTier,
    StreamOptions,
    check_stream_options,
)
from internvl_server.settings import LimitSettings, MediaSettings

__all__ = ["CHAT_FIELDS", "ChatCompletionRequest", "parse_chat_request"]


class ChatCompletionRequest(ConversationFields, ReasoningFields, SamplingFields):
    """The implemented fields; ranges are OpenAI's where it has the field."""

    model: str
    """The served name."""
    max_tokens: MaxTokens | None = None
    """The older name of `max_completion_tokens`."""
    max_completion_tokens: MaxTokens | None = None
    """Default: the rest of the context, or `limits.default_max_tokens`."""
    n: Annotated[int, Field(ge=1)] | None = None
    """1 to `limits.max_choices`; images are prepared once."""
    logprobs: Annotated[bool | None, Needs("logprobs")] = None
    """Returns the log probability of every token. A number means `true` with this `top_logprobs`."""
    top_logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None, Needs("logprobs")
    ] = None
    """0 to 20; the chosen token is among them."""
    stream: bool | None = None
    """Server-sent events."""
    stream_options: StreamOptions | None = None
    """`include_usage`, `continuous_usage_stats`, `include_obfuscation`."""
    response_format: Annotated[ResponseFormat | None, Needs("response_format")] = None
    """`text`, `json_object`, `json_schema`; `regex_schema` of
    LMDeploy, and llama.cpp's `schema` beside the type."""
    tool_choice: ToolChoiceField | None = None
    """`none`, `auto`, `allowed_tools`; with guided decoding also `required` and one function."""
    parallel_tool_calls: bool | None = None
    """`false`: at most one call."""
    service_tier: ServiceTier | None = None
    """`auto`, `default`."""


_SYSTEM = "Send a message with the role 'system'."

CHAT_FIELDS = FieldTable(
    api="chat",
    model=ChatCompletionRequest,
    bookkeeping={
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "user",
    },
    refused={
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    instead={"function_call": "Use 'tool_choice'.", "functions": "Use 'tools'."},
    foreign={
        **ANSWER,
        **CHAT_CONVERSATION,
        **OPTIONS,
        **token_limit("max_tokens", "max_output_tokens"),
        "best_of": Foreign(instead="Use 'n'.", neutral=(1,)),
        "echo": Foreign(instead="Use 'continue_final_message'."),
        "format": Foreign(instead="Use 'response_format'."),
        "input": Foreign(instead="Use 'messages'."),
        "instructions": Foreign(instead=_SYSTEM),
        "n_cmpl": Foreign("n"),
        "previous_response_id": Foreign(instead="Send the whole conversation in 'messages'."),
        "prompt": Foreign(instead="Use 'messages', or the endpoint '/v1/completions'."),
        "system": Foreign(instead=_SYSTEM),
        "text": Foreign(instead="Use 'response_format'."),
    },
)


def parse_chat_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False, media: MediaSettings
) -> ParsedRequest[ChatCompletionRequest]:
    """Parse, validate and convert a request body. CPU-bound: large bodies belong in a thread.

    Args:
        body: UTF-8 JSON.
        limits: How long lists may be.
        ignore_unknown: Ignore unknown fields and list them instead of refusing them.
        media: How many frames of a video are used, by default and at most.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For a field that is not implemented.
    """
    fields, unknown = known_fields(read_object(body), CHAT_FIELDS, ignore_unknown=ignore_unknown)
    check_lists(fields, limits)
    prepare_messages(fields, limits)
    _convert_count(fields)
    request, inner = validate(ChatCompletionRequest, fields, ignore_unknown=ignore_unknown)
    return _converted(request, media, unknown + inner)


def _converted(
    body: ChatCompletionRequest, media: MediaSettings, ignored: tuple[str, ...]
) -> ParsedRequest[ChatCompletionRequest]:
    check_stream_options(body.stream_options, stream=body.stream)
    tools = to_tools([t.function for t in body.tools or ()], "tools[{}].function.name")
    choice = to_tool_choice(
        *chosen_tools(body.tool_choice), tools, parallel=body.parallel_tool_calls
    )
    sampling = to_sampling_params(
        body,
        max_tokens=_max_tokens(body),
        num_logprobs=_num_logprobs(body),
        answer_format=format_constraint(body.response_format),
        calls=tool_call_constraint(tools, choice),
    )
    conversation = to_conversation(body, () if choice.mode == "none" else tools, media)
    return ParsedRequest(
        body,
        with_thinking(conversation, body, sampling.constraint),
        sampling,
        to_answer_params(
            body,
            num_choices=body.n or 1,
            tool_choice=choice,
            tool_names=tuple([tool.name for tool in tools]),
            reasoning=body,
        ),
        ignored,
    )


def _max_tokens(body: ChatCompletionRequest) -> int | None:
    """The newer name wins; different values of both contradict each other."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError(
            "'max_tokens' and 'max_completion_tokens' differ. Give one of them.", param="max_tokens"
        )
    return old if new is None else new


def _convert_count(fields: dict[str, Any]) -> None:
    """Convert a number in `logprobs`, the form of `/v1/completions`: 0 is none, 1 also just `true`."""
    count, top = fields.get("logprobs"), fields.get("top_logprobs")
    if type(count) is not int:
        return
    if count > 1 and top not in (None, count):
        raise InvalidRequestError(
            "'logprobs' and 'top_logprobs' differ. Set 'logprobs' to true.", param="logprobs"
        )
    fields["logprobs"] = count != 0
    if count != 0 and top is None:
        fields["top_logprobs"] = count


def _num_logprobs(body: ChatCompletionRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
        )
    return (body.top_logprobs or 0) if body.logprobs else None
