"""Log set-up: one line an event on stderr, with the request's id, control characters escaped."""

import logging
import sys

from internvl_server.telemetry.request_id import current_request_id

__all__ = ["configure_logs"]

_MAX_LINE_CHARS = 8192


def configure_logs(level: str) -> None:
    """Send every logger's lines of at least `level` to stderr, in one format."""
    handler = _StderrHandler()
    handler.setFormatter(_LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx2", "httpcore2", "PIL", "sse_starlette", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the time: it may be replaced, and the old one closed."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  (logging's own rule: it never fails its caller)
            self.handleError(record)


class _LineFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = current_request_id.get()
        line = super().format(record)
        if record.exc_info is None:
            line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
        return line[:_MAX_LINE_CHARS]
