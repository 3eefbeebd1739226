"""Refuses what would make a parser or a validator create too many objects, before it does.

pydantic-core's parser holds the interpreter lock from the first byte of a body to the last, also in a thread.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from internvl_server.errors import InvalidRequestError, RequestTooLargeError
from internvl_server.settings import LimitSettings

__all__ = [
    "MAX_TOOL_CHARS",
    "check_length",
    "check_lists",
    "check_num_parts",
    "check_structure",
    "num_chars_of",
]

_MAX_STOPS = 4
_MAX_STOP_CHARS = 8192
_MAX_TOKEN_IDS = 1024
MAX_TOOL_CHARS = 1 << 20  # `json.dumps` writes them in a few milliseconds
_SLICE_BYTES = 1 << 18  # fits a processor's cache
_LAST_ASCII = 0x7F
_PART_HOLDERS = ("content", "output", "source", "tool_calls")

_Bytes: TypeAlias = NDArray[np.uint8]


def check_structure(body: bytes, max_values: int) -> None:
    """Check how long a parser would hold the interpreter lock.

    CPU-bound for large bodies, about 0.3 ms per megabyte, but the lock is not held.

    Args:
        body: JSON. Punctuation in its strings is counted too: the limit must exceed the number of tokens that
            a text may have.
        max_values: Most values and names of members, or other work that takes as long.

    Raises:
        RequestTooLargeError: There are more.
    """
    cost = 0
    data = np.frombuffer(body, np.uint8)
    for start in range(0, len(data), _SLICE_BYTES):
        cost += _parsing_cost(data[start : start + _SLICE_BYTES])
        if cost > max_values:
            raise RequestTooLargeError(
                f"The body has more than {max_values} JSON values (limits.max_json_values), counted by its "
                "punctuation, or too much text that is not ASCII."
            )


def _parsing_cost(data: _Bytes) -> int:
    """The time to parse a slice, in the time of a small value: about 0.15 µs.

    A list, an object and a member take longer than a number. Numbers of hundreds of digits, escaped
    characters and UTF-8 have no punctuation, but slow a parser down too; base64 has few of them.
    """
    num_values = _count(data, b",") + 2 * (_count(data, b":") + _count(data, b"{"))
    num_values += 3 * _count(data, b"[")
    num_digits = int(np.count_nonzero(data - ord(b"0") < 10))  # noqa: PLR2004  (the others wrap around)
    if num_digits < len(data) // 2:
        num_digits = 0
    num_not_ascii = int(np.count_nonzero(data > _LAST_ASCII))
    return num_values + _count(data, b"\\") // 5 + num_digits // 40 + num_not_ascii // 64


def _count(data: _Bytes, sign: bytes) -> int:
    """Ten times as fast as `bytes.count`, and without the interpreter lock."""
    return int(np.count_nonzero(data == ord(sign)))


def check_lists(fields: Mapping[str, Any], limits: LimitSettings) -> None:
    """Check the lists that all dialects have. Anything but a list is left to the validator.

    Raises:
        InvalidRequestError: Names the list, its length and the limit.
    """
    for name in ("logit_bias", "stop_token_ids"):
        check_length(fields.get(name), name, _MAX_TOKEN_IDS, "the server's")
    check_length(fields.get("tools"), "tools", limits.max_tools, "limits.max_tools")
    num_chars = num_chars_of(fields.get("tools"))
    if num_chars > MAX_TOOL_CHARS:
        raise InvalidRequestError(
            f"'tools' have {num_chars} characters; the limit is {MAX_TOOL_CHARS} (the server's).",
            param="tools",
        )
    stop = fields.get("stop")
    check_length(stop, "stop", _MAX_STOPS, "OpenAI's")
    for index, text in enumerate(stop if isinstance(stop, list) else [stop]):
        if isinstance(text, str) and len(text) > _MAX_STOP_CHARS:
            path = f"stop[{index}]" if isinstance(stop, list) else "stop"
            raise InvalidRequestError(
                f"'{path}' has {len(text)} characters; the limit is {_MAX_STOP_CHARS} (the server's).",
                param=path,
            )


def num_chars_of(value: Any) -> int:  # noqa: ANN401  (any JSON value)
    """The characters of all texts in a value, names of members included."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(len, value)) + sum(map(num_chars_of, value.values()))
    return sum(map(num_chars_of, value)) if isinstance(value, list) else 0


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
