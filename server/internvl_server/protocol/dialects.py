"""How each API dialect names request fields and writes errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from internvl_server.errors import Field

__all__ = ["CHAT", "COMPLETIONS", "RESPONSES", "Dialect", "ErrorBody"]


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
    """One API: the names of its fields, and the JSON of its errors.

    `names` holds the fields that are not called by the value of their `Field`.
    """

    names: Mapping[Field, str]
    envelope: Callable[[ErrorBody], dict[str, Any]]

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
