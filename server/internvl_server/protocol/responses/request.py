"""The request bodies of `/v1/responses` and `/v1/responses/input_tokens`, and the tables of their fields."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from internvl_server.protocol.fields import Extension, FieldTable, Foreign, Needs
from internvl_server.protocol.fields.foreign import (
    ANSWER,
    CONVERSATION,
    OPTIONS,
    token_limit,
)
from internvl_server.protocol.responses.items import InputItem
from internvl_server.protocol.responses.text_format import TextConfig
from internvl_server.protocol.responses.tools import FunctionTool, ToolChoice
from internvl_server.protocol.sampling import MAX_LOGPROBS, SamplingFields
from internvl_server.protocol.thinking import ReasoningFields, ThinkingFields
from internvl_server.protocol.wire import MaxTiles, MaxTokens, ServiceTier, TextOr, Wire

__all__ = [
    "COUNT_FIELDS",
    "RESPONSES_FIELDS",
    "InputTokensRequest",
    "ObfuscationOptions",
    "PromptFields",
    "ResponsesRequest",
]


class ObfuscationOptions(Wire):
    """Options of a stream."""

    include_obfuscation: bool | None = None


class PromptFields(ThinkingFields):
    """The fields that become the prompt, or decide what the answer may be."""

    input: TextOr[Annotated[list[InputItem], Field(min_length=1)]]
    """A text, or items: messages, function calls and their outputs."""
    instructions: str | None = None
    """A system message before the input."""
    text: Annotated[TextConfig | None, Needs("response_format")] = None
    """`format`: `text`, `json_object`, `json_schema`."""
    tools: list[FunctionTool] | None = None
    """Functions, at most `limits.max_tools`."""
    tool_choice: ToolChoice | None = None
    """`none`, `auto`, `allowed_tools`; with guided decoding also `required` and one function."""
    parallel_tool_calls: bool | None = None
    """`false`: at most one call."""
    max_tiles: Annotated[MaxTiles | None, Extension()] = None
    """1 to 40: maximum number of tiles of each image without `max_tiles`, if its `detail` is `auto`."""


class InputTokensRequest(PromptFields):
    """The fields of `/v1/responses/input_tokens`."""

    model: str | None = None
    """The served name."""


Includable: TypeAlias = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
_MAX_INCLUDED = 64

Label: TypeAlias = Annotated[str, Field(max_length=64)]


class ResponsesRequest(PromptFields, ReasoningFields, SamplingFields):
    """The implemented fields; ranges are OpenAI's where it has the field."""

    model: str
    """The served name."""
    max_output_tokens: MaxTokens | None = None
    """Default: the rest of the context, or `limits.default_max_tokens`."""
    include: Annotated[
        Annotated[list[Includable], Field(fail_fast=True, max_length=_MAX_INCLUDED)] | None,
        Needs("logprobs"),
    ] = None
    """`message.output_text.logprobs`: the log probability of every token. OpenAI's other values have no
    effect, because no answer has the items they are about."""
    top_logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None, Needs("logprobs")
    ] = None
    """0 to 20; the chosen token is among them."""
    stream: bool | None = None
    """Server-sent events."""
    stream_options: ObfuscationOptions | None = None
    """`include_obfuscation`."""
    service_tier: ServiceTier | None = None
    """`auto`, `default`."""
    metadata: (
        Annotated[dict[Label, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None
    ) = None
    """A label, which the response repeats."""
    user: str | None = None
    """A label, which the response repeats."""
    safety_identifier: str | None = None
    """A label, which the response repeats."""
    prompt_cache_key: str | None = None
    """A label, which the response repeats."""


_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": ({"context_compression": "disabled"},),
    "max_tool_calls": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "store": (False,),
    "truncation": ("disabled",),
}
_NOT_STORED = "Nothing is stored here; send the whole conversation in 'input'."
_INSTEAD: Mapping[str, str] = {
    "background": "Every response is answered on its own connection; leave it out.",
    "conversation": _NOT_STORED,
    "max_tool_calls": "It limits hosted tools, which do not exist here; leave it out.",
    "previous_response_id": _NOT_STORED,
    "prompt": "There are no stored prompts here; use 'instructions' and 'input'.",
    "store": "Responses are not stored; leave it out or set it to false.",
    "truncation": "Input that is too long is refused, never shortened; leave it out.",
}

_ONE_ANSWER = Foreign(instead="A response is one answer.", neutral=(1,))
_PROMPT_FOREIGN: Mapping[str, Foreign] = {
    **CONVERSATION,
    "format": Foreign(instead="Use 'text.format'."),
    "function_call": Foreign(instead="Use 'tool_choice'."),
    "functions": Foreign(instead="Use 'tools'."),
    "messages": Foreign(instead="Use 'input'."),
    "response_format": Foreign(instead="Use 'text.format'.", neutral=({"type": "text"},)),
    "system": Foreign(instead="Use 'instructions'."),
}

RESPONSES_FIELDS = FieldTable(
    api="responses",
    model=ResponsesRequest,
    bookkeeping={"prompt_cache_options", "prompt_cache_retention"},
    refused=_REFUSED,
    instead=_INSTEAD,
    foreign={
        **ANSWER,
        **OPTIONS,
        **_PROMPT_FOREIGN,
        **token_limit("max_output_tokens", "max_completion_tokens", "max_tokens"),
        "best_of": _ONE_ANSWER,
        "logprobs": Foreign(instead="Use 'include'."),
        "n": _ONE_ANSWER,
    },
)

# Refused fields of `/v1/responses` that counting has as well, and one that only counting has.
_COUNT_REFUSED = ("conversation", "previous_response_id", "truncation")
COUNT_FIELDS = FieldTable(
    api="responses",
    model=InputTokensRequest,
    bookkeeping=frozenset(),
    refused={name: _REFUSED[name] for name in _COUNT_REFUSED} | {"personality": ()},
    instead=_INSTEAD,
    foreign=_PROMPT_FOREIGN,
)
