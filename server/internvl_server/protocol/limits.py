"""How many messages, parts, tools and stop strings a request has, judged before any of them is looked at.

A validator makes objects for every element of a list; these limits keep that work small.
"""

from collections.abc import Mapping
from typing import Any

from internvl_server.errors import InvalidRequestError
from internvl_server.settings import LimitSettings

__all__ = ["check_counts", "check_input_counts"]

_MAX_STOPS = 4
# Each character is worked on and remembered for every prompt.
_MAX_STOP_CHARS = 8192
_MAX_TOKEN_IDS = 1024
_MAX_METADATA = 16


def check_counts(fields: Mapping[str, Any], limits: LimitSettings) -> None:
    """Refuse lists that are too long. What is no list is left to the validator.

    Raises:
        InvalidRequestError: Naming the list, its length and the limit.
    """
    _check_stops(fields.get("stop"))
    for name in ("logit_bias", "stop_token_ids"):
        _check(fields.get(name), name, _MAX_TOKEN_IDS, "the server's")
    _check(fields.get("tools"), "tools", limits.max_tools, "limits.max_tools")
    messages = fields.get("messages")
    _check(messages, "messages", limits.max_messages, "limits.max_messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            path = f"messages[{index}].content"
            _check(message.get("content"), path, limits.max_parts, "limits.max_parts")
            _check_frames(message.get("content"), path, limits)
            path = f"messages[{index}].tool_calls"
            _check(message.get("tool_calls"), path, limits.max_tools, "limits.max_tools")


def _check_frames(content: Any, path: str, limits: LimitSettings) -> None:  # noqa: ANN401  (any JSON)
    """The frames of a `video` part count like parts."""
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict):
            frames = f"{path}[{index}].video"
            _check(part.get("video"), frames, limits.max_parts, "limits.max_parts")


def check_input_counts(fields: Mapping[str, Any], limits: LimitSettings) -> None:
    """As `check_counts`, for the input items of `/v1/responses`.

    Raises:
        InvalidRequestError: Naming the list, its length and the limit.
    """
    _check_stops(fields.get("stop"))
    _check(fields.get("tools"), "tools", limits.max_tools, "limits.max_tools")
    _check(fields.get("metadata"), "metadata", _MAX_METADATA, "OpenAI's")
    items = fields.get("input")
    _check(items, "input", limits.max_messages, "limits.max_messages")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        for name in ("content", "output") if isinstance(item, dict) else ():
            path = f"input[{index}].{name}"
            _check(item.get(name), path, limits.max_parts, "limits.max_parts")


def _check_stops(stop: Any) -> None:  # noqa: ANN401  (any JSON value)
    _check(stop, "stop", _MAX_STOPS, "OpenAI's")
    for index, text in enumerate(stop if isinstance(stop, list) else [stop]):
        if isinstance(text, str) and len(text) > _MAX_STOP_CHARS:
            path = f"stop[{index}]" if isinstance(stop, list) else "stop"
            raise InvalidRequestError(
                f"'{path}' has {len(text)} characters; the limit is {_MAX_STOP_CHARS} (the server's).",
                param=path,
            )


def _check(value: Any, path: str, limit: int, source: str) -> None:  # noqa: ANN401  (any JSON value)
    if isinstance(value, list | dict) and len(value) > limit:
        raise InvalidRequestError(
            f"'{path}' has {len(value)} entries; the limit is {limit} ({source}).", param=path
        )
