"""Every refusal and failure as the table the README shows."""

import inspect
from collections.abc import Mapping

from internvl_server.api.errors import ERROR_TABLE, INTERNAL_ROW, Row
from internvl_server.errors import (
    InvalidRequestError,
    ServerError,
    StartupError,
    UnsupportedParameterError,
)

__all__ = ["SPECIAL_CODES", "errors_table"]

# Codes that are narrower than their class: the class, and what they mean.
SPECIAL_CODES: Mapping[str, tuple[type[ServerError], str]] = {
    "invalid_json": (InvalidRequestError, "The body is not JSON, or not an object."),
    "invalid_value": (InvalidRequestError, "A field has the wrong type or is out of range."),
    "missing_required_parameter": (InvalidRequestError, "A field that must be there is not."),
    "unknown_parameter": (UnsupportedParameterError, "A field nobody knows."),
}


def errors_table() -> str:
    """Status, type, code, whether to retry, and meaning, as Markdown."""
    lines = [
        _line(row, row.code, inspect.getdoc(cls))
        for cls, row in ERROR_TABLE.items()
        if cls is not StartupError  # the process has ended by then
    ]
    lines += [
        _line(ERROR_TABLE[cls], code, meaning) for code, (cls, meaning) in SPECIAL_CODES.items()
    ]
    lines.append(_line(INTERNAL_ROW, INTERNAL_ROW.code, "A defect of the server."))
    head = ["| Status | `type` | `code` | Retry | Meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(head + sorted(set(lines)))


def _line(row: Row, code: str | None, meaning: str | None) -> str:
    first = (meaning or "").split("\n\n")[0].replace("\n", " ")
    retry = f"after {row.retry_after_s} s" if row.retry_after_s else "no"
    return f"| {row.status} | `{row.type}` | `{code}` | {retry} | {first} |"
