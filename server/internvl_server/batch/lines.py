"""One line of a batch file: what it asks for, and what is written about it."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from pydantic_core import from_json

from internvl_server.api.errors import envelope
from internvl_server.errors import InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.dialects import CHAT

__all__ = ["OUTPUT_START", "BatchError", "BatchLine", "answer_line", "failure_line", "read_lines"]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")

# What every line of an output file begins with.
OUTPUT_START = '{"id":"batch_req_'

_MAX_SHOWN_CHARS = 64


class BatchError(Exception):
    """The files or options of a batch cannot be used; nothing was sent."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request of a batch file; `fields` is the whole line."""

    number: int
    custom_id: str
    fields: dict[str, Any]

    @property
    def url(self) -> str:
        """The endpoint's path."""
        return str(self.fields["url"])

    def body(self) -> bytes:
        """The request's body as JSON.

        Raises:
            InvalidRequestError: The line asks for what a batch cannot do.
        """
        self._check()
        return json.dumps(self.fields["body"], ensure_ascii=False, separators=(",", ":")).encode()

    def _check(self) -> None:
        fields = self.fields
        unknown = next(iter(fields.keys() - {"custom_id", "method", "url", "body"}), None)
        if unknown is not None:
            raise UnsupportedParameterError(
                f"Unknown member of the line: '{unknown[:_MAX_SHOWN_CHARS]}'.",
                param=unknown[:_MAX_SHOWN_CHARS],
                code="unknown_parameter",
            )
        if fields.get("method") != "POST":
            raise InvalidRequestError("'method' must be POST.", param="method")
        if fields.get("url") not in ENDPOINTS:
            raise InvalidRequestError(f"'url' must be one of {', '.join(ENDPOINTS)}.", param="url")
        body = fields.get("body")
        if not isinstance(body, dict):
            raise InvalidRequestError("'body' must be an object.", param="body")
        if body.get("stream"):
            raise UnsupportedParameterError(
                "A batch does not stream. Leave 'stream' out.", param="stream"
            )


def read_lines(file: IO[bytes], max_line_bytes: int) -> Iterator[BatchLine]:
    """The requests of a file, one at a time; empty lines are passed over.

    Raises:
        BatchError: A line is too long, no JSON object, or has no `custom_id`; says which.
    """
    number = 0
    while data := file.readline(max_line_bytes + 1):
        number += 1
        if len(data) > max_line_bytes:
            raise BatchError(
                f"line {number} is longer than {max_line_bytes} bytes (limits.max_body_bytes)"
            )
        if data.strip():
            yield _line(number, data)


def _line(number: int, data: bytes) -> BatchLine:
    try:
        fields = from_json(data, allow_inf_nan=False)
    except ValueError as err:
        raise BatchError(f"line {number} is not valid JSON") from err
    if not isinstance(fields, dict):
        raise BatchError(f"line {number} is not a JSON object")
    custom_id = fields.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise BatchError(f"line {number} has no custom_id")
    return BatchLine(number, custom_id, fields)


def answer_line(custom_id: str, status: int, request_id: str, body: bytes) -> str:
    """What is written about a request that was answered, well or not."""
    try:
        content = from_json(body)
    except ValueError:  # a proxy's page, say
        content = body.decode("utf-8", "replace")
    response = {"status_code": status, "request_id": request_id, "body": content}
    return _output_line(custom_id, response, None)


def failure_line(custom_id: str, failure: InvalidRequestError | str) -> str:
    """What is written about a request that was not sent, or not executed.

    Args:
        custom_id: The line's.
        failure: Why the line itself cannot be served, written as a server would answer; or what went
            wrong on the way, written as `error`, which a later run takes as not done.
    """
    if isinstance(failure, InvalidRequestError):
        response = {"status_code": 400, "request_id": "", "body": envelope(failure, CHAT)}
        return _output_line(custom_id, response, None)
    return _output_line(custom_id, None, {"code": "not_executed", "message": failure})


def _output_line(
    custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None
) -> str:
    line = {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))
