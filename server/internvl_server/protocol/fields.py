"""Which top-level request fields are implemented, accepted as bookkeeping, or refused by name.

The one table behind the parser, the README and the tests. A refused field is let through only with a
value that asks for nothing (`audio: null`, `modalities: ["text"]`): then nothing is ignored.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from internvl_server.errors import UnsupportedParameterError

__all__ = [
    "BOOKKEEPING",
    "CHAT_FIELDS",
    "EXTENSIONS",
    "IMPLEMENTED",
    "REFUSED",
    "FieldTable",
    "known_fields",
    "without_empty_members",
]

# OpenAI's own.
IMPLEMENTED: frozenset[str] = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "response_format",
        "seed",
        "service_tier",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
    }
)

# This server's, under the names other servers use.
EXTENSIONS: frozenset[str] = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "ignore_eos",
        "include_stop_str_in_output",
        "min_p",
        "min_tokens",
        "repetition_penalty",
        "skip_special_tokens",
        "stop_token_ids",
        "structured_outputs",
        "top_k",
    }
)

# Labels for the caller's own records and hints for a provider's caches: the answer is the same without.
BOOKKEEPING: frozenset[str] = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
)

# Field → the values, besides null, that ask for nothing.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}

# What to do instead, where there is something.
_INSTEAD: Mapping[str, str] = {
    "function_call": "Use 'tool_choice'.",
    "functions": "Use 'tools'.",
}

_MAX_SHOWN_CHARS = 64


@dataclass(frozen=True, slots=True)
class FieldTable:
    """The top-level fields of one endpoint.

    `kept` are implemented, ours included. `refused` maps a field to the values, besides null, that ask
    for nothing; `instead` tells what to do about it, where there is something.
    """

    kept: AbstractSet[str]
    bookkeeping: AbstractSet[str]
    refused: Mapping[str, tuple[Any, ...]]
    instead: Mapping[str, str] = field(default_factory=dict)


CHAT_FIELDS = FieldTable(IMPLEMENTED | EXTENSIONS, BOOKKEEPING, REFUSED, _INSTEAD)


def known_fields(
    body: Mapping[str, Any], *, ignore_unknown: bool = False, table: FieldTable = CHAT_FIELDS
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The implemented fields of a request body, and the names of those that were ignored.

    Args:
        body: The whole body.
        ignore_unknown: Ignore fields that are neither OpenAI's nor ours instead of refusing them.
        table: The endpoint's fields.

    Raises:
        UnsupportedParameterError: For the first field that is neither implemented nor bookkeeping,
            unless its value asks for nothing.
    """
    kept: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in body.items():
        if name in table.kept:
            kept[name] = value
        elif name in table.refused:
            _refuse(name, value, table)
        elif name not in table.bookkeeping:
            if not ignore_unknown:
                _refuse_unknown(name)
            ignored.append(name)
    return kept, tuple(ignored)


def without_empty_members(message: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """A message without members that say nothing.

    The SDK's own message objects, sent back as history, are full of nulls and empty lists
    (`refusal: null`, `annotations: []`). What is not an object is left to the validator.
    """
    if not isinstance(message, dict):
        return message
    kept = {k: v for k, v in message.items() if v is not None and not (v == [] and k in _LISTS)}
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [_without_nulls(part) for part in content]
    return kept


_LISTS = frozenset({"annotations", "tool_calls"})


def _without_nulls(part: Any) -> Any:  # noqa: ANN401  (any JSON value)
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if value is not None}


def _refuse_unknown(name: str) -> None:
    shown = name if len(name) <= _MAX_SHOWN_CHARS else f"{name[:_MAX_SHOWN_CHARS]}…"
    raise UnsupportedParameterError(
        f"Unknown parameter: '{shown}'. It is not one of OpenAI's or of this server's extensions.",
        param=shown,
        code="unknown_parameter",
    )


def _refuse(name: str, value: Any, table: FieldTable) -> None:  # noqa: ANN401  (any JSON value)
    if value is None or any(_is_same(value, neutral) for neutral in table.refused[name]):
        return
    instead = table.instead.get(name, "Leave it out.")
    raise UnsupportedParameterError(
        f"'{name}' is not supported by this server. {instead}", param=name
    )


def _is_same(value: Any, neutral: Any) -> bool:  # noqa: ANN401  (any JSON value)
    """Equal, where `true` is not 1."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
