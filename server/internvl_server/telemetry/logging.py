"""Log set-up: one line per event on stderr, with the request id and with control characters escaped."""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

from internvl_server.telemetry.request_id import current_request_id
from internvl_server.telemetry.stderr import StderrHandler

__all__ = ["EventFormatter", "JsonFormatter", "configure_logs"]

MAX_EVENT_BYTES = 8192
_CUT_MARK = " [...] "


def configure_logs(level: str, form: Literal["text", "json"] = "text") -> None:
    """Send the events of every logger, from `level` upwards, to stderr in one format."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else EventFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx2", "httpcore2", "PIL", "sse_starlette", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class EventFormatter(logging.Formatter):
    """Formats an event as one line; a traceback follows on indented lines.

    Control characters are escaped and every line but the first is indented, so that text from a client
    cannot forge an event. An event longer than `MAX_EVENT_BYTES` loses its middle: the message and the
    exception at the end of a traceback are kept.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The text of one event, without a line break at its end."""
        record.request_id = current_request_id.get()
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [_escape(_cut_middle(self.formatMessage(record)))]
        lines += [f"  {_escape(line)}" for line in _cut_middle(_trace_of(record)).splitlines()]
        return _cut_middle("\n".join(lines))


class JsonFormatter(logging.Formatter):
    """Formats an event as one line with a JSON object, in the same bounds.

    Its members are `time` (UTC), `level`, `logger`, `request_id`, `message`, with an exception `traceback`,
    and what the event has as its `members`: those of the access log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The text of one event, without a line break at its end."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request_id": current_request_id.get(),
        }
        members: dict[str, Any] | None = getattr(record, "members", None)
        if members is None:
            event["message"] = record.getMessage()
            if trace := _trace_of(record):
                event["traceback"] = trace
        else:
            event |= members
        # Escaping makes some texts longer.
        for max_bytes in (MAX_EVENT_BYTES // 3, MAX_EVENT_BYTES // 24):
            line = json.dumps({name: _shortened(value, max_bytes) for name, value in event.items()})
            if len(line) <= MAX_EVENT_BYTES:
                break
        return line.replace(
            "\x7f", "\\u007f"
        )  # the only control character that JSON leaves as it is


def _shortened(value: object, max_bytes: int) -> object:
    return _cut_middle(value, max_bytes) if isinstance(value, str) else value


def _trace_of(record: logging.LogRecord) -> str:
    # Not `formatException`: its result is cached in the record and shared with other formatters.
    trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
    return trace + (record.stack_info or "")


def _escape(text: str) -> str:
    if text.isprintable():  # nearly always
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _cut_middle(text: str, max_bytes: int = MAX_EVENT_BYTES) -> str:
    """Shorten a text; what is left before and after the cut is on one line, so no line can be forged."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= max_bytes:
        return text
    kept = (max_bytes - len(_CUT_MARK)) // 2
    return data[:kept].decode(errors="ignore") + _CUT_MARK + data[-kept:].decode(errors="ignore")
