"""The output file of a batch: taken up where an earlier run left it, written line by line."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json

from internvl_server.batch.ledger import Ledger
from internvl_server.batch.lines import OUTPUT_START, BatchError

__all__ = ["OutputFile", "open_output"]

_FIRST_FAILURE = 400


class OutputFile:
    """Appends lines; each is with the operating system when `write` returns."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, line: str) -> None:
        """Append one line."""
        self._file.write(line.encode() + b"\n")
        self._file.flush()


@contextmanager
def open_output(path: Path, ledger: Ledger) -> Iterator[OutputFile]:
    """The file, with what it already has noted in the ledger.

    Lines with an answer stay and are settled. Those without one, and a last line that was cut off, are
    taken out, so that each request has one line in the end.

    Raises:
        BatchError: The file is not the output of a batch, or another run writes to it.
        OSError: It cannot be read or written.
    """
    with path.open("ab") as file:
        _lock(file, path)
        if not _note(path, ledger):
            yield OutputFile(file)
            return
        with path.with_name(path.name + ".tmp").open("wb") as kept:
            _lock(kept, path)  # before it takes the file's place: nobody finds that unlocked
            kept.writelines(data for data in _lines(path) if _entry(data) is not None)
            kept.flush()
            os.fsync(kept.fileno())
            Path(kept.name).replace(path)
            yield OutputFile(kept)


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BatchError(f"another run is writing to {path}") from None


def _note(path: Path, ledger: Ledger) -> bool:
    """Settle the lines with an answer; whether there are others, to be taken out."""
    found = False
    for data in _lines(path):
        entry = _entry(data)
        if entry is None:
            found = True
        else:
            custom_id, status = entry
            ledger.settle(custom_id, is_success=status < _FIRST_FAILURE)
    return found


def _lines(path: Path) -> Iterator[bytes]:
    """Every line.

    Raises:
        BatchError: One is not of a batch's output.
    """
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            start = OUTPUT_START.encode()
            if not (data.startswith(start) or start.startswith(data)):
                raise BatchError(f"{path} is not the output of a batch: line {number}")
            yield data


def _entry(data: bytes) -> tuple[str, int] | None:
    """`custom_id` and status of a whole line with an answer."""
    if not data.endswith(b"\n"):
        return None
    line: Any = from_json(data)
    response = line["response"]
    return None if response is None else (str(line["custom_id"]), int(response["status_code"]))
