"""How a request ended, judged by its answer alone."""

import json
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from scripts.load.accounts.exchange import Answer

__all__ = ["Outcome", "error_code", "judge"]


class Outcome(StrEnum):
    """The ways in which a request may end."""

    COMPLETED = "completed"
    REFUSED = "refused"
    """By a status of 4xx, 503 or 504 with an error as its body."""
    FAILED = "failed with an error"
    """By an error event in a stream, or another status of 5xx with an error as its body."""
    CANCELLED = "cancelled by the client"
    UNCONNECTED = "not connected"
    UNEXPLAINED = "unexplained"


_SHEDDING = {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
# What ends a stream: events of `/v1/responses` and `/v1/messages` have types.
_GOOD_ENDS = {"[DONE]", "response.completed", "response.incomplete", "message_stop"}
_BAD_ENDS = {"response.failed", "error"}


def judge(answer: Answer) -> tuple[Outcome, str]:
    """How it ended, and what is wrong with that if it cannot be explained."""
    if answer.has_left:
        return Outcome.CANCELLED, ""
    if not answer.is_connected:
        return Outcome.UNCONNECTED, answer.problem
    if not answer.is_whole:
        return Outcome.UNEXPLAINED, f"status {answer.status}, then {answer.problem}"
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return _judge_refusal(answer)
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return _judge_stream(bytes(answer.body))
    return _judge_whole(answer)


def error_code(answer: Answer) -> str | None:
    """The code, or the type, of the error in a body; None if there is none."""
    try:
        error = json.loads(bytes(answer.body))["error"]
        return str(error.get("code") or error["type"]) if error["message"] else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _judge_refusal(answer: Answer) -> tuple[Outcome, str]:
    is_head = not answer.body and answer.headers.get("content-length", "0") != "0"
    if error_code(answer) is None and not is_head:
        return Outcome.UNEXPLAINED, f"status {answer.status} without an error as its body"
    is_failure = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if is_failure and answer.status not in _SHEDDING:
        return Outcome.FAILED, ""
    return Outcome.REFUSED, ""


def _judge_whole(answer: Answer) -> tuple[Outcome, str]:
    if answer.headers.get("content-type", "").startswith("application/json") and answer.body:
        try:
            parsed = json.loads(bytes(answer.body))
        except ValueError:
            return Outcome.UNEXPLAINED, "the answer is not JSON"
        if isinstance(parsed, dict) and parsed.get("error"):
            return Outcome.UNEXPLAINED, f"status {answer.status} with an error"
    return Outcome.COMPLETED, ""


def _judge_stream(body: bytes) -> tuple[Outcome, str]:
    """A stream has one end, its last event. One that reports an error must not look finished."""
    events = [
        line.removeprefix("data: ") for line in body.decode().split("\n") if line[:6] == "data: "
    ]
    try:
        types = [_type(event) for event in events]
    except ValueError:
        return Outcome.UNEXPLAINED, "an event is not JSON"
    ends = [kind for kind in types if kind in _GOOD_ENDS | _BAD_ENDS]
    if len(ends) != 1 or types[-1] != ends[0]:
        return Outcome.UNEXPLAINED, f"a stream with the ends {ends} in {len(types)} events"
    if ends[0] in _BAD_ENDS:
        return Outcome.FAILED, ""
    if ends[0] == "[DONE]":
        return _judge_choices(events[:-1])
    return Outcome.COMPLETED, ""


def _type(event: str) -> str:
    if event == "[DONE]":
        return event
    parsed = json.loads(event)
    return "error" if parsed.get("error") else str(parsed.get("type", ""))


def _judge_choices(events: list[str]) -> tuple[Outcome, str]:
    """Every choice of chat completions and completions ends once."""
    choices: list[dict[str, Any]] = [
        choice for event in events for choice in json.loads(event)["choices"]
    ]
    every = {choice["index"] for choice in choices}
    ended = [choice["index"] for choice in choices if choice.get("finish_reason")]
    if sorted(ended) != sorted(every):
        return Outcome.UNEXPLAINED, f"of the choices {sorted(every)}, {sorted(ended)} ended"
    return Outcome.COMPLETED, ""
