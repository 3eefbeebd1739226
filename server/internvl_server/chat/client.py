"""Sends a conversation to a server and reads the stream of its answer."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx2
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from internvl_server.errors import StartupError
from internvl_server.settings.options import without_credentials

__all__ = ["Answer", "AnswerError", "Client", "Delta", "open_client"]

_CONNECT_TIMEOUT_S = 10.0
_MODELS_TIMEOUT_S = 30.0
_MAX_MESSAGE = 500


class AnswerError(Exception):
    """A question was refused, or its answer ended early."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event adds to an answer."""

    text: str = ""
    reasoning: str = ""


class _Delta(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(BaseModel):
    choices: Sequence[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


@dataclass
class Answer:
    """An answer as far as it has come.

    Attributes:
        text: Without reasoning.
        ended_by: The `finish_reason`; None while there is none.
        num_input: Tokens of the prompt; None if the server does not say.
        num_output: Tokens of the answer, reasoning included; None if the server does not say.
        sent_s, first_s, last_s: When it was asked for, and when its first and last text came, on one clock.
    """

    text: str = ""
    ended_by: str | None = None
    num_input: int | None = None
    num_output: int | None = None
    sent_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    last_s: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the model ended it, and not a limit."""
        return self.ended_by == "stop"

    def take(self, data: str) -> Delta:
        """Add one event.

        Raises:
            AnswerError: It reports an error, or is not one of chat completions.
        """
        if data == "[DONE]":
            return Delta()
        try:
            event = _Event.model_validate_json(data)
        except ValidationError as err:
            raise AnswerError(f"Not an event of chat completions: {data[:_MAX_MESSAGE]}") from err
        if event.error:
            raise AnswerError(_message_of(event.error))
        if event.usage:
            self.num_input, self.num_output = (
                event.usage.prompt_tokens,
                event.usage.completion_tokens,
            )
        choice = next(iter(event.choices or ()), _Choice())
        self.ended_by = choice.finish_reason or self.ended_by
        return self._add(choice.delta or _Delta())

    def _add(self, part: _Delta) -> Delta:
        delta = Delta(part.content or "", part.reasoning_content or part.reasoning or "")
        self.text += delta.text
        if delta.text or delta.reasoning:
            self.last_s = time.perf_counter()
            self.first_s = self.first_s or self.last_s
        return delta


class Client:
    """Asks one model of one server.

    Args:
        http: An open client; its base address is the server's without `/v1`.
        model: Name of the model; None: the first that the server lists.
        fields: Further members of every body.

    Raises:
        StartupError: The server cannot be reached, or lists no model.
    """

    def __init__(self, http: httpx2.Client, model: str | None, fields: Mapping[str, Any]) -> None:
        self._http, self._fields = http, fields
        self.model = model or _first_model(http)

    def ask(
        self, messages: list[dict[str, Any]], answer: Answer, show: Callable[[Delta], None]
    ) -> None:
        """Fill in an answer, and show what comes. A KeyboardInterrupt closes the stream, and passes.

        Raises:
            AnswerError: The server refuses the question, or the answer ends early.
        """
        body = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._fields,
        }
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != HTTPStatus.OK:
                    raise AnswerError(_refusal(response))
                for event in httpx2.EventSource(response):
                    show(answer.take(event.data))
        except (httpx2.HTTPError, httpx2.StreamError, ValueError) as err:
            raise AnswerError(f"{type(err).__name__}: {err}") from err
        if answer.ended_by is None:
            raise AnswerError("The stream ended before the answer did.")


@contextmanager
def open_client(
    url: str, key: str | None, model: str | None, fields: Mapping[str, Any]
) -> Iterator[Client]:
    """A client whose answers may take any time.

    Args:
        url: Address of the server without `/v1`.
        key: Sent as a bearer token, if any.
        model: See `Client`.
        fields: See `Client`.

    Raises:
        StartupError: See `Client`.
    """
    with httpx2.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        trust_env=False,
    ) as http:
        yield Client(http, model, fields)


def _first_model(http: httpx2.Client) -> str:
    try:
        response = http.get("/v1/models", timeout=_MODELS_TIMEOUT_S)
    except httpx2.HTTPError as err:
        url, reason = without_credentials(http.base_url), str(err).rstrip(".")
        raise StartupError(
            f"No answer from {url}: {reason}. Is it running, and --url right?"
        ) from err
    url = without_credentials(response.url)
    if response.status_code != HTTPStatus.OK:
        raise StartupError(f"{url}: {_refusal(response)}")
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as err:
        raise StartupError(f"{url} lists no model. Name one with --model.") from err


def _refusal(response: httpx2.Response) -> str:
    """Status and message of a refusal, whose body may be anything."""
    data = response.read()
    try:
        value = from_json(data)
        message = _message_of(value.get("error", value))
    except (ValueError, AttributeError):
        message = data.decode(errors="replace")
    return f"status {response.status_code}: {message[:_MAX_MESSAGE] or response.reason_phrase}"


def _message_of(error: object) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
