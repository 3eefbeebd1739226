"""The access log: one line for each request, when it has ended."""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from internvl_server.telemetry.record import RequestRecord, Stage

__all__ = ["log_access"]

_log = logging.getLogger("server.access")

_QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})
_QUIET_FOLDER = "/playground/"
_MAX_PATH_CHARS = 200


def log_access(path: str, record: RequestRecord) -> None:
    """Write the line of a request: what it asked for, how it ended, whose it was, what it took."""
    fields: dict[str, Any] = {
        "method": record.method,
        "path": quote(path[:_MAX_PATH_CHARS]),
        "status": record.status,
        "outcome": record.outcome,
        "client": record.client,
    }
    if record.error_code:
        fields["code"] = record.error_code
    if record.entered_at:
        fields |= _answer(record)
    if record.first_event_at:
        fields["first_ms"] = _ms(record.first_event_at - record.started)
    fields["ms"] = _ms(record.ended - record.started)
    if record.trace_id:
        fields["trace_id"] = record.trace_id
    is_quiet = path in _QUIET_PATHS or path.startswith(_QUIET_FOLDER)
    level = logging.DEBUG if is_quiet else logging.INFO
    _log.log(level, "%s", _text(fields), extra={"members": fields})


def _answer(record: RequestRecord) -> dict[str, Any]:
    """What a request that reached the engine took."""
    fields: dict[str, Any] = {"prompt_tokens": record.num_prompt_tokens}
    if record.num_images:
        fields |= {"images": record.num_images, "tiles": record.num_tiles}
    if record.num_cached_tokens:
        fields["cached_tokens"] = record.num_cached_tokens
    fields["completion_tokens"] = record.num_completion_tokens
    if record.finish_reasons:
        fields["finish"] = ",".join(dict.fromkeys(record.finish_reasons))
    waits = [time.seconds for time in record.stages if time.stage is Stage.QUEUE]
    return fields | {"queue_ms": _ms(sum(waits))}


def _text(fields: Mapping[str, Any]) -> str:
    """`POST /v1/chat/completions 200 ok client=… ms=…`."""
    plain = ("method", "path", "status", "outcome")
    return " ".join(
        f"{value}" if name in plain else f"{name}={value}" for name, value in fields.items()
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
