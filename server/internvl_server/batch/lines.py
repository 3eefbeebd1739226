"""The input file of a batch: one request per line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from pydantic_core import from_json

from internvl_server.errors import InvalidRequestError, UnsupportedParameterError

__all__ = ["BatchError", "BatchLine", "read_lines"]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")

_MAX_SHOWN_CHARS = 64


class BatchError(Exception):
    """The files or options of a batch cannot be used; no request was sent."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request of a batch file; `fields` is the whole line."""

    number: int
    custom_id: str
    fields: dict[str, Any]

    @property
    def url(self) -> str:
        """The path of the endpoint."""
        return str(self.fields["url"])

    def body(self) -> bytes:
        """The body of the request as JSON.

        Raises:
            InvalidRequestError: The line asks for something that a batch does not support.
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
    """Read the requests of a file one at a time, without its empty lines.

    Raises:
        BatchError: A line is too long, is not a JSON object, or has no `custom_id`; names the line.
    """
    number = 0
    while data := file.readline(max_line_bytes + 1):
        number += 1
        if len(data) > max_line_bytes:
            raise BatchError(
                f"line {number} is longer than {max_line_bytes} bytes (limits.max_body_bytes)"
            )
        if data.strip():
            yield _parse(number, data)


def _parse(number: int, data: bytes) -> BatchLine:
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
