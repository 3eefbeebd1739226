"""The id of the request being served, for every log line written on its behalf."""

import re
import secrets
from contextvars import ContextVar

__all__ = ["current_request_id", "is_valid_request_id", "new_request_id"]

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")

_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    """A fresh id nobody can guess."""
    return secrets.token_hex(12)


def is_valid_request_id(value: str) -> bool:
    """Whether a caller's id may be echoed; it is never used as a key."""
    return _VALID.fullmatch(value) is not None
