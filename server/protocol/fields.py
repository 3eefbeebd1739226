"""Which top-level request fields are implemented, accepted as bookkeeping, or refused by name.

The one table behind the parser, the README and the tests. A refused field is let through only with a
value that asks for nothing (`n: 1`, `tools: []`): then nothing is ignored.
"""

from collections.abc import Mapping
from typing import Any

from server.errors import UnsupportedParameterError

__all__ = ["BOOKKEEPING", "IMPLEMENTED", "REFUSED", "without_bookkeeping", "without_empty_members"]

IMPLEMENTED: frozenset[str] = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
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
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),  # means nothing without tools, and those are refused
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}

_MAX_SHOWN_CHARS = 64


def without_bookkeeping(body: Mapping[str, Any]) -> dict[str, Any]:
    """The implemented fields of a request body.

    Raises:
        UnsupportedParameterError: For the first field that is neither implemented nor bookkeeping,
            unless its value asks for nothing.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if name in IMPLEMENTED:
            kept[name] = value
        elif name not in BOOKKEEPING:
            _refuse(name, value)
    return kept


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


def _refuse(name: str, value: Any) -> None:  # noqa: ANN401  (any JSON value)
    if name not in REFUSED:
        shown = name if len(name) <= _MAX_SHOWN_CHARS else f"{name[:_MAX_SHOWN_CHARS]}…"
        raise UnsupportedParameterError(
            f"Unknown parameter: '{shown}'. It is not one of OpenAI's or of this server's extensions.",
            param=shown,
            code="unknown_parameter",
        )
    if value is None or any(_is_same(value, neutral) for neutral in REFUSED[name]):
        return
    raise UnsupportedParameterError(
        f"'{name}' is not supported by this server. Leave it out.", param=name
    )


def _is_same(value: Any, neutral: Any) -> bool:  # noqa: ANN401  (any JSON value)
    """Equal, where `true` is not 1."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
