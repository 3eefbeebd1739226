"""The top-level fields of `/v1/responses`: implemented, bookkeeping, or refused by name with the reason."""

from collections.abc import Mapping
from typing import Any

from internvl_server.protocol.fields import FieldTable

__all__ = [
    "COUNT_FIELDS",
    "RESPONSES_BOOKKEEPING",
    "RESPONSES_EXTENSIONS",
    "RESPONSES_FIELDS",
    "RESPONSES_IMPLEMENTED",
    "RESPONSES_REFUSED",
]

# OpenAI's own. Labels for the caller's records are among them: the answer repeats them.
RESPONSES_IMPLEMENTED: frozenset[str] = frozenset(
    {
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "model",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
    }
)

# This server's, under the names they have in chat.
RESPONSES_EXTENSIONS: frozenset[str] = frozenset(
    {
        "frequency_penalty",
        "min_p",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "top_k",
    }
)

# Hints for a provider's caches: the answer is the same without.
RESPONSES_BOOKKEEPING: frozenset[str] = frozenset(
    {"prompt_cache_options", "prompt_cache_retention"}
)

# Field → the values, besides null, that ask for nothing.
RESPONSES_REFUSED: Mapping[str, tuple[Any, ...]] = {
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
    "reasoning": ({}, {"effort": "none"}, {"effort": None}, {"effort": "none", "summary": None}),
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
    "reasoning": "The model does not reason apart from its answer; leave it out.",
    "store": "Responses are not stored; leave it out or set it to false.",
    "truncation": "Input that is too long is refused, never shortened; leave it out.",
}

RESPONSES_FIELDS = FieldTable(
    RESPONSES_IMPLEMENTED | RESPONSES_EXTENSIONS,
    RESPONSES_BOOKKEEPING,
    RESPONSES_REFUSED,
    _INSTEAD,
)

# Those of `/v1/responses/input_tokens`: what becomes part of the prompt.
COUNT_FIELDS = FieldTable(
    frozenset(
        {"input", "instructions", "model", "parallel_tool_calls", "text", "tool_choice", "tools"}
    ),
    frozenset(),
    {
        **{
            name: RESPONSES_REFUSED[name]
            for name in ("conversation", "previous_response_id", "reasoning", "truncation")
        },
        "personality": (),
    },
    _INSTEAD,
)
