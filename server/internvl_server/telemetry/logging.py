"""Log set-up: one line per event on stderr, with the request id and with control characters escaped."""

import logging
import sys
import traceback

from internvl_server.telemetry.request_id import current_request_id

__all__ = ["configure_logs"]

MAX_EVENT_CHARS = 8192
_CUT_MARK = " [...] "


def configure_logs(level: str) -> None:
    """Send the events of every logger, from `level` upwards, to stderr in one format."""
    handler = _StderrHandler()
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx2", "httpcore2", "PIL", "sse_starlette", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _StderrHandler(logging.Handler):
    """Looks up `sys.stderr` for each event, because it may be replaced and the old stream closed."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - a log handler must not raise into its caller
            self.handleError(record)


class EventFormatter(logging.Formatter):
    """Formats an event as one line; a traceback follows on indented lines.

    Control characters are escaped and every line but the first is indented, so that text from a client
    cannot forge an event. An event longer than `MAX_EVENT_CHARS` loses its middle: the message and the
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
        # Not `formatException`: its result is cached in the record and shared with other formatters.
        if record.exc_info:
            lines += _indent("".join(traceback.format_exception(*record.exc_info)))
        if record.stack_info:
            lines += _indent(record.stack_info)
        return _cut_middle("\n".join(lines))


def _indent(text: str) -> list[str]:
    return [f"  {_escape(line)}" for line in _cut_middle(text).splitlines()]


def _escape(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _cut_middle(text: str) -> str:
    """Shorten a text; what is left before and after the cut is on one line, so no line can be forged."""
    if len(text) <= MAX_EVENT_CHARS:
        return text
    kept = (MAX_EVENT_CHARS - len(_CUT_MARK)) // 2
    return text[:kept] + _CUT_MARK + text[-kept:]
