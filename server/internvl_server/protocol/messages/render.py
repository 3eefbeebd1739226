"""Writes a message, whole or as the events of a stream."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from internvl_server.core import FinishReason, TextDelta, Usage
from internvl_server.protocol.chat.render import dumps
from internvl_server.protocol.dialects import MESSAGES, ErrorBody
from internvl_server.protocol.messages.output import ContentBlocks, Event

__all__ = ["MessageHead", "MessageWriter", "count_json"]

_STOP_REASONS: dict[FinishReason, str] = {
    "length": "max_tokens",
    "stop": "end_turn",
    "tool_calls": "tool_use",
}


@dataclass(frozen=True, slots=True)
class MessageHead:
    """The members of a message that do not depend on the answer.

    `id` is `msg_…`, `model` the served name, `usage` what the prompt took, `max_tokens` the request's limit.
    """

    id: str
    model: str
    usage: Usage
    max_tokens: int

    def json(self) -> dict[str, Any]:
        """A message without content."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": _usage_json(self.usage),
        }


class MessageWriter:
    """Writes one message, as a stream of events or as a whole.

    Args:
        head: The members that do not depend on the answer.
    """

    dialect = MESSAGES
    num_logprobs = 0
    end = b""

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._blocks = ContentBlocks()

    def begin(self) -> bytes:
        """The first event: a message without content."""
        return _frames([{"type": "message_start", "message": self._head.json()}])

    def delta(self, delta: TextDelta) -> bytes:
        """The events of a delta; after the last one, why the message ended and the usage."""
        events = list(self._blocks.push(delta))
        if delta.finish_reason is not None:
            ending, usage = self._ending(delta)
            events += [
                {"type": "message_delta", "delta": ending, "usage": _usage_json(usage)},
                {"type": "message_stop"},
            ]
        return _frames(events)

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """None: events have the place of their text in the answer."""
        del index
        return None

    def failed(self, error: ErrorBody) -> bytes:
        """The last event of a message that failed."""
        return _frames([self.dialect.envelope(error)])

    def whole(self, deltas: Iterable[TextDelta]) -> dict[str, Any]:
        """The message of a complete answer."""
        last = TextDelta("")
        for last in deltas:
            for _ in self._blocks.push(last):
                pass
        ending, usage = self._ending(last)
        content = {"content": self._blocks.json}
        return self._head.json() | content | ending | {"usage": _usage_json(usage)}

    def _ending(self, last: TextDelta) -> tuple[dict[str, Any], Usage]:
        """Why the message ended, and what it took."""
        assert last.finish_reason is not None
        usage = last.usage or self._head.usage
        reason, details = _STOP_REASONS[last.finish_reason], None
        if last.refusal:
            reason = "refusal"
            details = {"type": "refusal", "category": None, "explanation": last.refusal}
        elif last.stop_string is not None:
            reason = "stop_sequence"
        elif reason == "max_tokens" and usage.num_completion_tokens < self._head.max_tokens:
            reason = "model_context_window_exceeded"
        ending = {
            "stop_reason": reason,
            "stop_sequence": last.stop_string,
            "stop_details": details,
        }
        return ending | ({"schema_violation": last.violation} if last.violation else {}), usage


def count_json(usage: Usage) -> dict[str, Any]:
    """The answer of `/v1/messages/count_tokens`."""
    return {"input_tokens": usage.num_prompt_tokens}


def _usage_json(usage: Usage) -> dict[str, Any]:
    """Anthropic's `usage`, whose `input_tokens` excludes cached ones; the details are an extension."""
    return {
        "input_tokens": usage.num_prompt_tokens - usage.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached_tokens,
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.num_reasoning_tokens},
        "input_tokens_details": {
            "image_tokens": usage.num_image_tokens,
            "text_tokens": usage.num_prompt_tokens - usage.num_image_tokens,
            "images": [{"tiles": i.num_tiles, "tokens": i.num_tokens} for i in usage.images],
        },
    }


def _frames(events: Iterable[Event]) -> bytes:
    frames = [f"event: {event['type']}\ndata: {dumps(event)}\n\n" for event in events]
    return "".join(frames).encode()
