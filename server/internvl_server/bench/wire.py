"""The bodies of requests and the events of answers of the three endpoints that generate text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from internvl_server.bench.datasets.base import Prompt

__all__ = ["ENDPOINTS", "Chunk", "Endpoint", "Usage"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event, or a whole answer, says."""

    text: str = ""
    usage: "Usage | None" = None
    is_part: bool = True
    is_last: bool = False
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counts them; None where it does not. `cached` are those of the input it knew."""

    input: int | None
    output: int | None
    cached: int | None = None


class Endpoint:
    """One endpoint: its path, its bodies and its answers."""

    path: str
    length_field = "max_tokens"

    def content(self, prompt: Prompt) -> dict[str, Any]:
        """The members of a body that hold the prompt.

        Raises:
            ValueError: The endpoint cannot take it.
        """
        raise NotImplementedError

    def body(
        self, prompt: Prompt, model: str, fields: Mapping[str, Any], *, stream: bool
    ) -> dict[str, Any]:
        """A whole body; `fields` take precedence over everything but the prompt."""
        made: dict[str, Any] = {"model": model, **self.content(prompt), "stream": stream}
        if prompt.max_tokens is not None:
            made[self.length_field] = prompt.max_tokens
        if stream:
            made |= self.stream_fields
        return {**made, **prompt.fields, **fields}

    stream_fields: Mapping[str, Any] = {"stream_options": {"include_usage": True}}

    def parse(self, data: bytes) -> Chunk:
        """Read the data of an event, or a whole answer.

        Raises:
            ValueError: It is not the JSON of this endpoint.
        """
        if data == b"[DONE]":
            return Chunk(is_part=False, is_last=True)
        value = from_json(data)
        if not isinstance(value, dict):
            raise ValueError("an event is not a JSON object")  # noqa: TRY004 - it is data
        if error := value.get("error"):
            return Chunk(error=error_of(error))
        return self._parse(value)

    def _parse(self, value: dict[str, Any]) -> Chunk:
        raise NotImplementedError


class Chat(Endpoint):
    """`/v1/chat/completions`."""

    path = "/v1/chat/completions"

    def content(self, prompt: Prompt) -> dict[str, Any]:
        return {"messages": prompt.chat_messages()}

    def _parse(self, value: dict[str, Any]) -> Chunk:
        choices = value.get("choices") or []
        text = "".join(map(_choice_text, choices))
        return Chunk(text, usage_of(value.get("usage")), is_part=bool(choices))


class Completions(Endpoint):
    """`/v1/completions`: text only, without a template."""

    path = "/v1/completions"

    def content(self, prompt: Prompt) -> dict[str, Any]:
        return {"prompt": prompt.plain_text()}

    def _parse(self, value: dict[str, Any]) -> Chunk:
        choices = value.get("choices") or []
        text = "".join(choice.get("text") or "" for choice in choices)
        return Chunk(text, usage_of(value.get("usage")), is_part=bool(choices))


class Responses(Endpoint):
    """`/v1/responses`."""

    path = "/v1/responses"
    length_field = "max_output_tokens"
    stream_fields: Mapping[str, Any] = {}

    def content(self, prompt: Prompt) -> dict[str, Any]:
        return {"input": prompt.response_items()}

    def _parse(self, value: dict[str, Any]) -> Chunk:
        kind = value.get("type", "")
        if kind.endswith(".delta"):
            return Chunk(str(value.get("delta") or ""))
        if kind == "error":
            return Chunk(error=error_of(value))
        if not kind:  # a whole answer
            return _response_end(value, _output_text(value))
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            return _response_end(value["response"], "")
        return Chunk(is_part=False)


ENDPOINTS: dict[str, Endpoint] = {
    "chat": Chat(),
    "completions": Completions(),
    "responses": Responses(),
}


def usage_of(usage: object) -> Usage | None:
    """Tokens by the names of chat or of responses."""
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return Usage(
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
        details.get("cached_tokens"),
    )


def error_of(error: object) -> tuple[str, str]:
    """Code and message of an error object or text."""
    if not isinstance(error, dict):
        return "", str(error)
    code = error.get("code") or error.get("type") or ""
    return str(code), str(error.get("message") or "")


def _choice_text(choice: dict[str, Any]) -> str:
    """All that the model has written: answer, reasoning, and the arguments of calls."""
    part = choice.get("delta") or choice.get("message") or {}
    calls = [call.get("function") or {} for call in part.get("tool_calls") or []]
    written = [part.get("content"), part.get("reasoning_content"), part.get("reasoning")]
    written += [call.get(name) for call in calls for name in ("name", "arguments")]
    return "".join(text for text in written if text)


def _output_text(response: dict[str, Any]) -> str:
    parts = [part for item in response.get("output") or [] for part in item.get("content") or []]
    return "".join(part.get("text") or "" for part in parts)


def _response_end(response: dict[str, Any], text: str) -> Chunk:
    if error := response.get("error"):
        return Chunk(error=error_of(error))
    return Chunk(text, usage_of(response.get("usage")), is_last=True)
