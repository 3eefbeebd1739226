"""The output file of a batch: one result per line, continued where an earlier run left off."""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import httpx2
from pydantic_core import from_json

from internvl_server.api.errors import envelope
from internvl_server.batch.lines import BatchError
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.dialects import CHAT

__all__ = ["ResultFile", "answer", "not_executed", "open_results", "refusal"]

_LINE_START = '{"id":"batch_req_'


class ResultFile:
    """Appends results; `write` hands each to the operating system before it returns.

    `outcomes` says of each request with a result, by `custom_id`, whether it succeeded.
    """

    def __init__(self, file: IO[bytes], outcomes: dict[str, bool]) -> None:
        self._file = file
        self.outcomes = outcomes

    def write(self, result: dict[str, Any]) -> bool:
        """Append one result; returns whether the request succeeded."""
        line = {"id": f"batch_req_{uuid.uuid4().hex}", **result}
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        self._file.write(text.encode() + b"\n")
        self._file.flush()
        self.outcomes[result["custom_id"]] = _is_success(result)
        return _is_success(result)


@contextmanager
def open_results(path: Path) -> Iterator[ResultFile]:
    """Open the file to append to it.

    Results with a response are kept. Requests that were not executed, and a last line that was cut off, are
    removed, so that a finished batch has one line per request.

    Raises:
        BatchError: The file is not the output of a batch, or another run writes to it.
        OSError: It cannot be read or written.
    """
    with path.open("ab") as file:
        _lock(file, path)
        found = [_outcome(line) for line in _lines(path)]
        outcomes = dict(filter(None, found))
        if None not in found:
            yield ResultFile(file, outcomes)
            return
        with path.with_name(path.name + ".tmp").open("wb") as kept:
            _lock(kept, path)  # before the replacement, so that the path is never unlocked
            kept.writelines(line for line in _lines(path) if _outcome(line) is not None)
            kept.flush()
            os.fsync(kept.fileno())
            Path(kept.name).replace(path)
            yield ResultFile(kept, outcomes)


def answer(custom_id: str, response: httpx2.Response) -> dict[str, Any]:
    """The result of a request that the server answered, with success or with an error."""
    try:
        body = from_json(response.content)
    except ValueError:  # such as the error page of a proxy
        body = response.text
    return _result(custom_id, response.status_code, response.headers.get("x-request-id", ""), body)


def refusal(custom_id: str, error: InvalidRequestError) -> dict[str, Any]:
    """The result of a line that cannot be sent, in the form of a server's answer."""
    return _result(custom_id, HTTPStatus.BAD_REQUEST, "", envelope(error, CHAT))


def not_executed(custom_id: str, message: str) -> dict[str, Any]:
    """The result of a request that got no answer; the next run sends it again."""
    error = {"code": "not_executed", "message": message}
    return {"custom_id": custom_id, "response": None, "error": error}


def _result(custom_id: str, status: int, request_id: str, body: object) -> dict[str, Any]:
    response = {"status_code": int(status), "request_id": request_id, "body": body}
    return {"custom_id": custom_id, "response": response, "error": None}


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BatchError(f"another run is writing to {path}") from None


def _lines(path: Path) -> Iterator[bytes]:
    start = _LINE_START.encode()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not (line.startswith(start) or start.startswith(line)):
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
