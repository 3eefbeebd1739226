"""The request bodies of `/v1/messages` and `/v1/messages/count_tokens`, and the tables of their fields."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from internvl_server.protocol.fields import Extension, FieldTable, Foreign, Needs
from internvl_server.protocol.fields.foreign import (
    ANSWER,
    CONVERSATION,
    OPTIONS,
    token_limit,
)
from internvl_server.protocol.messages.content import SystemBlocks
from internvl_server.protocol.messages.tools import ClientTool, ToolUseChoice
from internvl_server.protocol.messages.turns import Turn
from internvl_server.protocol.sampling import SamplingFields
from internvl_server.protocol.thinking import ReasoningFields, ThinkingFields
from internvl_server.protocol.wire import MaxTiles, MaxTokens, Wire

__all__ = [
    "COUNT_FIELDS",
    "MESSAGES_FIELDS",
    "CountTokensRequest",
    "JsonOutputFormat",
    "MessagesRequest",
    "PromptFields",
]


class JsonOutputFormat(Wire):
    """JSON that fits a schema."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Wire):
    """The format of the answer."""

    format: JsonOutputFormat | None = None


class PromptFields(ThinkingFields):
    """The fields that become the prompt, or decide what the answer may be."""

    model: str
    """The served name."""
    messages: Annotated[list[Turn], Field(min_length=1)]
    """User, assistant and system messages; a last message of the assistant is continued."""
    system: SystemBlocks | None = None
    """A text, or text blocks."""
    tools: list[ClientTool] | None = None
    """Tools of the client, at most `limits.max_tools`."""
    tool_choice: ToolUseChoice | None = None
    """`auto`, `none`; with guided decoding also `any` and `tool`; `disable_parallel_tool_use`."""
    output_config: Annotated[OutputConfig | None, Needs("response_format")] = None
    """`format`: `json_schema`."""
    output_format: Annotated[JsonOutputFormat | None, Needs("response_format")] = None
    """The older name of `output_config.format`."""
    max_tiles: Annotated[MaxTiles | None, Extension()] = None
    """1 to 40: maximum number of tiles of each image without `max_tiles`, if its `detail` is `auto`."""


class CountTokensRequest(PromptFields):
    """The fields of `/v1/messages/count_tokens`."""


class MessagesRequest(PromptFields, ReasoningFields, SamplingFields):
    """The implemented fields."""

    max_tokens: MaxTokens
    """Maximum number of generated tokens; an answer also ends when the context is full."""
    stop_sequences: list[Annotated[str, Field(min_length=1, max_length=8192)]] | None = None
    """At most 64 strings of at most 8192 characters, matched on text and never shown."""
    top_k: Annotated[Annotated[int, Field(ge=-1, le=2**63 - 1)] | None, Needs("top_k")] = None
    """0 or -1: no limit."""
    stream: bool | None = None
    """Server-sent events."""


_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "compaction": (),
    "container": (),
    "context_management": ({}, {"edits": []}),
    "mcp_servers": ([],),
    "thread": (),
}
_INSTEAD: Mapping[str, str] = {
    "container": "Nothing is executed here; leave it out.",
    "mcp_servers": "Connect to the servers yourself, and give their tools in 'tools'.",
}
_ONE_ANSWER = Foreign(instead="A message is one answer.", neutral=(1,))
_NO_LOGPROBS = Foreign(instead="Messages have no log probabilities; use chat completions.")
_PROMPT_FOREIGN: Mapping[str, Foreign] = {
    **CONVERSATION,
    "format": Foreign(instead="Use 'output_config.format'."),
    "functions": Foreign(instead="Use 'tools'."),
    "input": Foreign(instead="Use 'messages'."),
    "instructions": Foreign(instead="Use 'system'."),
    "parallel_tool_calls": Foreign(
        instead="Use 'tool_choice.disable_parallel_tool_use'.",
        neutral=(True,),
        not_neutral=(False,),
    ),
    "response_format": Foreign(instead="Use 'output_config.format'.", neutral=({"type": "text"},)),
}
_ANSWER_FOREIGN: Mapping[str, Foreign] = {
    **{name: foreign for name, foreign in ANSWER.items() if name != "stop_sequences"},
    **OPTIONS,
    **_PROMPT_FOREIGN,
    **token_limit("max_tokens", "max_completion_tokens", "max_output_tokens"),
    "best_of": _ONE_ANSWER,
    "logprobs": _NO_LOGPROBS,
    "n": _ONE_ANSWER,
    "top_logprobs": _NO_LOGPROBS,
}
_BOOKKEEPING = frozenset(
    {
        "anthropic_beta",
        "anthropic_version",
        "billing_policy",
        "cache_control",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
    }
)

MESSAGES_FIELDS = FieldTable(
    api="messages",
    model=MessagesRequest,
    bookkeeping=_BOOKKEEPING,
    refused=_REFUSED,
    instead=_INSTEAD,
    foreign=_ANSWER_FOREIGN,
)
COUNT_FIELDS = FieldTable(
    api="messages",
    model=CountTokensRequest,
    bookkeeping=_BOOKKEEPING,
    refused=_REFUSED,
    instead=_INSTEAD,
    foreign=_PROMPT_FOREIGN,
)
