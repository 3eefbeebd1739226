"""The id of the request being served: in `x-request-id`, in its log lines and in the ids of its answer."""

import re
import secrets
from contextvars import ContextVar

__all__ = ["current_request_id", "is_valid_request_id", "new_request_id"]

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")

_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    """A fresh id that cannot be guessed."""
    return secrets.token_hex(12)


def is_valid_request_id(value: str) -> bool:
    """Whether an id from a client may be used. Two requests may have the same one: it is never a key."""
    return _VALID.fullmatch(value) is not None
