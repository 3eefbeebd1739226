"""The files of a batch: one request per line in, one result per line out."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Literal

import httpx2
from pydantic_core import from_json, to_json

from internvl_server.errors import RequestTooLargeError, UnsupportedParameterError
from internvl_server.protocol.limits import check_structure
from internvl_server.protocol.parsing import validate
from internvl_server.protocol.wire import Wire

__all__ = [
    "BatchError",
    "ResultFile",
    "answer",
    "not_executed",
    "open_results",
    "parse_request",
    "read_lines",
]

_RESULT_START = b'{"id":"batch_req_'


class BatchError(Exception):
    """The files or options of a batch cannot be used; no request was sent."""


class _Request(Wire):
    """A line of the input file."""

    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"]
    body: dict[str, Any]


def read_lines(path: Path, max_line_bytes: int, max_values: int) -> Iterator[dict[str, Any]]:
    """Read the lines of an input file one at a time, without empty ones.

    Of the members, only `custom_id` is checked: `parse_request` refuses others without ending the batch.

    Args:
        path: The file.
        max_line_bytes: Most bytes of a line.
        max_values: Most JSON values of a line, counted as those of a body (`check_structure`).

    Raises:
        BatchError: Names a line that is too long or has too many values, is not a JSON object, or has no
            `custom_id` or that of an earlier line.
    """
    ids: set[str] = set()
    number = 0
    with path.open("rb") as file:
        while data := file.readline(max_line_bytes + 1):
            number += 1
            if len(data) > max_line_bytes:
                raise BatchError(
                    f"line {number} is longer than {max_line_bytes} bytes (limits.max_body_bytes)"
                )
            if not data.strip():
                continue
            line = _parse_line(number, data, max_values)
            if line["custom_id"] in ids:
                shown = line["custom_id"][:64]
                raise BatchError(f"line {number} has the custom_id of an earlier one: {shown!r}")
            ids.add(line["custom_id"])
            yield line


def _parse_line(number: int, data: bytes, max_values: int) -> dict[str, Any]:
    try:
        check_structure(data, max_values)
        line = from_json(data, allow_inf_nan=False)
    except RequestTooLargeError as err:
        raise BatchError(
            f"line {number} has more than {max_values} JSON values (limits.max_json_values)"
        ) from err
    except ValueError as err:
        raise BatchError(f"line {number} is not valid JSON") from err
    if not isinstance(line, dict):
        raise BatchError(f"line {number} is not a JSON object")
    if not isinstance(line.get("custom_id"), str) or not line["custom_id"]:
        raise BatchError(f"line {number} has no custom_id")
    return line


def parse_request(line: dict[str, Any]) -> tuple[str, bytes]:
    """The path and the JSON body of a line's request.

    Raises:
        InvalidRequestError: A batch does not support it.
    """
    request, _ = validate(_Request, line)
    if request.body.get("stream"):
        raise UnsupportedParameterError(
            "A batch does not stream. Leave 'stream' out.", param="stream"
        )
    # A number that is too large for a float is refused by the server, and not sent as null.
    return request.url, to_json(request.body, inf_nan_mode="constants")


class ResultFile:
    """Appends results; `write` hands each to the operating system before it returns.

    `outcomes` says of each request with a result, by `custom_id`, whether it succeeded.
    """

    def __init__(self, file: IO[bytes], outcomes: dict[str, bool]) -> None:
        self._file = file
        self.outcomes = outcomes

    def write(self, result: dict[str, Any]) -> bool:
        """Append one result; returns whether the request succeeded."""
        self._file.write(to_json({"id": f"batch_req_{uuid.uuid4().hex}", **result}) + b"\n")
        self._file.flush()
        self.outcomes[result["custom_id"]] = _is_success(result)
        return _is_success(result)


def answer(custom_id: str, response: httpx2.Response) -> dict[str, Any]:
    """The result of a request with a response, which may report an error."""
    try:
        body = from_json(response.content)
    except ValueError:  # such as the error page of a proxy
        body = response.text
    request_id = response.headers.get("x-request-id", "")
    shown = {"status_code": response.status_code, "request_id": request_id, "body": body}
    return {"custom_id": custom_id, "response": shown, "error": None}


def not_executed(custom_id: str, message: str) -> dict[str, Any]:
    """The result of a request without a response; the next run sends it again."""
    error = {"code": "not_executed", "message": message}
    return {"custom_id": custom_id, "response": None, "error": error}


@contextmanager
def open_results(path: Path) -> Iterator[ResultFile]:
    """Open an output file to append to it.

    Results without a response and a last line that was torn are removed, so that a finished batch has one
    line per request.

    Raises:
        BatchError: The file is not the output of a batch, or another run writes to it.
    """
    with path.open("ab") as file:
        _lock(file, path)
        found = [_outcome(line) for line in _result_lines(path)]
        outcomes = dict(filter(None, found))
        if None not in found:
            yield ResultFile(file, outcomes)
            return
        with path.with_name(path.name + ".tmp").open("wb") as kept:
            _lock(kept, path)  # before the replacement, so that the path is never unlocked
            kept.writelines(line for line in _result_lines(path) if _outcome(line) is not None)
            kept.flush()
            os.fsync(kept.fileno())
            Path(kept.name).replace(path)
            yield ResultFile(kept, outcomes)


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BatchError(f"another run is writing to {path}") from None


def _result_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not (line.startswith(_RESULT_START) or _RESULT_START.startswith(line)):
                raise BatchError(f"{path} is not the output of a batch: line {number}")
            yield line


def _outcome(line: bytes) -> tuple[str, bool] | None:
    """The `custom_id` and the success of a whole line with a response."""
    if not line.endswith(b"\n"):
        return None
    result = from_json(line)
    return None if result["response"] is None else (result["custom_id"], _is_success(result))


def _is_success(result: dict[str, Any]) -> bool:
    response = result["response"]
    return response is not None and response["status_code"] < HTTPStatus.BAD_REQUEST
