"""The access log: one line for each request, when it has ended."""

import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.types import Scope

from internvl_server.pipeline import Generation

__all__ = ["log_access"]

_log = logging.getLogger("server.access")

CLIENT_LEFT = 499
_QUIET_PATHS = frozenset({"/health", "/ready"})
_MAX_PATH_CHARS = 200


def log_access(scope: Scope, status: int, *, started: float, is_whole: bool) -> None:
    """Write the line of a request: what it asked for, how it ended, whose it was, what it took.

    Args:
        scope: The request's.
        status: Of the answer; 0 if there was none.
        started: When the request arrived, by `time.monotonic`.
        is_whole: Whether the answer was sent to its end.
    """
    state = scope["state"]
    has_failed = "has_failed" in state
    if not (is_whole or has_failed):
        status = CLIENT_LEFT
    fields: dict[str, Any] = {
        "method": scope["method"],
        "path": quote(scope["path"][:_MAX_PATH_CHARS]),
        "status": status,
        "outcome": _outcome(status, has_failed=has_failed),
        "client": state.get("client", "-"),
    }
    # Not kept: an idle connection keeps the scope of its last request.
    generation: Generation | None = state.pop("generation", None)
    if generation is not None:
        usage = generation.usage()
        fields["prompt_tokens"] = usage.num_prompt_tokens
        fields["completion_tokens"] = usage.num_completion_tokens
    if "first_event_at" in state:
        fields["first_ms"] = _ms(state["first_event_at"] - started)
    fields["ms"] = _ms(time.monotonic() - started)
    level = logging.DEBUG if scope["path"] in _QUIET_PATHS else logging.INFO
    _log.log(level, "%s", _text(fields), extra={"members": fields})


def _text(fields: Mapping[str, Any]) -> str:
    """`POST /v1/chat/completions 200 ok client=… ms=…`."""
    plain = ("method", "path", "status", "outcome")
    return " ".join(
        f"{value}" if name in plain else f"{name}={value}" for name, value in fields.items()
    )


def _outcome(status: int, *, has_failed: bool) -> str:
    if has_failed or status >= 500:  # noqa: PLR2004
        return "failed"
    if status == CLIENT_LEFT:
        return "left"
    return "refused" if status >= 400 else "ok"  # noqa: PLR2004


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
