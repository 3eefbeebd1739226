"""Refuses lists that are too long before a validator creates an object for each of their elements."""

from collections.abc import Mapping
from typing import Any

from internvl_server.errors import InvalidRequestError
from internvl_server.settings import LimitSettings

__all__ = ["check_length", "check_lists", "check_num_parts"]

_MAX_STOPS = 4
_MAX_STOP_CHARS = 8192
_MAX_TOKEN_IDS = 1024
_PART_HOLDERS = ("content", "output", "source", "tool_calls")


def check_lists(fields: Mapping[str, Any], limits: LimitSettings) -> None:
    """Check the lists that all dialects have. Anything but a list is left to the validator.

    Raises:
        InvalidRequestError: Names the list, its length and the limit.
    """
    for name in ("logit_bias", "stop_token_ids"):
        check_length(fields.get(name), name, _MAX_TOKEN_IDS, "the server's")
    check_length(fields.get("tools"), "tools", limits.max_tools, "limits.max_tools")
    stop = fields.get("stop")
    check_length(stop, "stop", _MAX_STOPS, "OpenAI's")
    for index, text in enumerate(stop if isinstance(stop, list) else [stop]):
        if isinstance(text, str) and len(text) > _MAX_STOP_CHARS:
            path = f"stop[{index}]" if isinstance(stop, list) else "stop"
            raise InvalidRequestError(
                f"'{path}' has {len(text)} characters; the limit is {_MAX_STOP_CHARS} (the server's).",
                param=path,
            )


def check_num_parts(
    entries: Any,  # noqa: ANN401  (any JSON value)
    path: str,
    limits: LimitSettings,
) -> None:
    """Check the number of parts of all messages together.

    Args:
        entries: The messages or items; anything but a list is left to the validator.
        path: Their JSON path.
        limits: How many parts a request may have.

    Raises:
        InvalidRequestError: There are too many.
    """
    if not isinstance(entries, list):
        return
    num_parts = _num_parts(entries) - len(entries)
    if num_parts > limits.max_parts_per_request:
        raise InvalidRequestError(
            f"'{path}' has {num_parts} content parts; the limit is {limits.max_parts_per_request} "
            "(limits.max_parts_per_request).",
            param=path,
        )


def _num_parts(value: Any) -> int:  # noqa: ANN401  (any JSON value)
    """The entries of a list, with those of the lists in them: parts may contain parts."""
    if isinstance(value, list):
        return len(value) + sum(map(_num_parts, value))
    if isinstance(value, dict):
        return sum(_num_parts(value[name]) for name in _PART_HOLDERS if name in value)
    return 0


def check_length(value: Any, path: str, limit: int, source: str) -> None:  # noqa: ANN401  (any JSON)
    """Check the length of a list or an object.

    Args:
        value: Any JSON value; only lists and objects are checked.
        path: Its JSON path.
        limit: Most entries.
        source: Who sets the limit, or the setting's name.

    Raises:
        InvalidRequestError: It is too long.
    """
    if isinstance(value, list | dict) and len(value) > limit:
        raise InvalidRequestError(
            f"'{path}' has {len(value)} entries; the limit is {limit} ({source}).", param=path
        )
