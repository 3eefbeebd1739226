"""How each API dialect names request fields and writes errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from internvl_server.errors import Field
from internvl_server.telemetry.request_id import current_request_id

__all__ = ["CHAT", "COMPLETIONS", "MESSAGES", "RESPONSES", "Dialect", "ErrorBody"]


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The contents of an error answer, in the words of a dialect.

    `type` and `code` are OpenAI's classification; `param` is the JSON path of the offending field.
    """

    message: str
    type: str
    code: str | None
    param: str | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API: the names of its fields, the JSON of its errors, and its conventions of HTTP.

    `names` holds the fields that are not called by the value of their `Field`. `id_headers` are the response
    headers with the request's id. `ping` has the members of the event that keeps a stream alive.
    """

    names: Mapping[Field, str]
    envelope: Callable[[ErrorBody], dict[str, Any]]
    id_headers: tuple[str, ...] = ("x-request-id",)
    ping: Mapping[str, str] = field(default_factory=lambda: {"comment": "ping"})

    def name_of(self, field: Field) -> str:
        """The field's name in this dialect."""
        return self.names.get(field, field.value)


def _openai_envelope(error: ErrorBody) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


_MESSAGES_TYPES = {
    "deadline_exceeded": "timeout_error",
    "engine_unavailable": "overloaded_error",
    "server_shutting_down": "overloaded_error",
    "request_timeout": "timeout_error",
    "request_too_large": "request_too_large",
}


def _messages_envelope(error: ErrorBody) -> dict[str, Any]:
    """Anthropic's envelope; `details`, which theirs has for some errors, names the code and the field."""
    kind = "api_error" if error.type == "server_error" else error.type
    # Their words, by which clients know that they must shorten the conversation.
    is_long = error.code == "context_length_exceeded"
    message = f"prompt is too long: {error.message}" if is_long else error.message
    return {
        "type": "error",
        "error": {
            "type": _MESSAGES_TYPES.get(error.code or "", kind),
            "message": message,
            "details": {"error_code": error.code, "param": error.param},
        },
        "request_id": current_request_id.get(),
    }


CHAT = Dialect({Field.PROMPT: "messages"}, _openai_envelope)
COMPLETIONS = Dialect({}, _openai_envelope)
RESPONSES = Dialect(
    {
        Field.PROMPT: "input",
        Field.MAX_TOKENS: "max_output_tokens",
        Field.LOGPROBS: "include",
    },
    _openai_envelope,
)
MESSAGES = Dialect(
    {Field.PROMPT: "messages"},
    _messages_envelope,
    id_headers=("x-request-id", "request-id"),
    ping={"event": "ping", "data": '{"type": "ping"}'},
)
