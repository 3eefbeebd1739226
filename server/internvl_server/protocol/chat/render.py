"""Core to wire: text deltas to the JSON of completions and chunks, as UTF-8 bytes.

Chunks are written from a prepared head and tail: a stream has thousands and they differ in one string.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from internvl_server.core import LogprobToken, TextDelta, TextLogprobs, ToolCallDelta, Usage

__all__ = ["AnswerHead", "ChunkWriter", "completion", "logprobs_json", "obfuscation", "usage_json"]

# With obfuscation, chunks are filled up to multiples of this many characters.
_OBFUSCATION_STEP = 32


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What all chunks of an answer, or the whole answer, begin with.

    `id` is `chatcmpl-…`, `model` the served name, `created` Unix time in seconds, `fingerprint` the
    `system_fingerprint`. `service_tier` is there when the request named one. `has_logprobs` tells that log
    probabilities were asked for: an answer without tokens then has an empty list of them.
    """

    id: str
    model: str
    created: int
    fingerprint: str
    service_tier: str | None = None
    has_logprobs: bool = False

    def json(self, kind: str) -> dict[str, Any]:
        """The members, of an object of this kind."""
        head = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
        return head | ({"service_tier": self.service_tier} if self.service_tier else {})


class ChunkWriter:
    """Writes the chunks of one streamed answer.

    Args:
        head: What they begin with.
        include_usage: Whether chunks carry `usage` (null until the last).
        obfuscate: Whether chunks are filled up so that their lengths tell little of the text's.
    """

    def __init__(self, head: AnswerHead, *, include_usage: bool, obfuscate: bool = False) -> None:
        self._head = _dumps(head.json("chat.completion.chunk"))[:-1] + ',"choices":['
        self._tail = '],"usage":null' if include_usage else "]"
        self._obfuscate = obfuscate

    def role(self, index: int = 0) -> bytes:
        """The first chunk of a choice: who speaks."""
        return self._choice(index, '{"role":"assistant","content":"","refusal":null}')

    def delta(self, delta: TextDelta) -> bytes:
        """A chunk with what a delta has: text, tool calls, log probabilities, or nothing."""
        if not delta.tool_calls and not delta.logprobs:
            return self._choice(delta.index, '{"content":' + _dumps(delta.text) + "}")
        content: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.tool_calls:
            content["tool_calls"] = [_call_delta_json(call) for call in delta.tool_calls]
        return self._choice(delta.index, _dumps(content), logprobs=_logprobs_text(delta.logprobs))

    def finish(self, delta: TextDelta) -> bytes:
        """The chunk that tells why a choice ended."""
        return self._choice(delta.index, "{}", finish_reason=f'"{delta.finish_reason}"')

    def usage(self, usage: Usage) -> bytes:
        """The last chunk of a stream with `include_usage`: no choices, the counts."""
        return (self._head + '],"usage":' + _dumps(usage_json(usage)) + "}").encode()

    def _choice(
        self, index: int, delta: str, *, logprobs: str = "null", finish_reason: str = "null"
    ) -> bytes:
        choice = (
            f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},'
            f'"finish_reason":{finish_reason}}}'
        )
        filler = obfuscation(len(choice)) if self._obfuscate else ""
        return (self._head + choice + self._tail + filler + "}").encode()


def completion(head: AnswerHead, answers: Sequence[TextDelta]) -> dict[str, Any]:
    """The JSON of a whole answer.

    Args:
        head: What it begins with.
        answers: One entry a choice; the last has the usage.
    """
    usage = answers[-1].usage
    return head.json("chat.completion") | {
        "choices": [_whole_choice(answer, head) for answer in answers],
        "usage": usage_json(usage) if usage else None,
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`; `images`, this server's extension, tells what each image or frame took."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.num_cached_tokens,
            "image_tokens": usage.num_image_tokens,
            "text_tokens": usage.num_prompt_tokens - usage.num_image_tokens,
            "images": [{"tiles": i.num_tiles, "tokens": i.num_tokens} for i in usage.images],
        },
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def logprobs_json(logprobs: Sequence[TextLogprobs]) -> list[dict[str, Any]]:
    """The entries of `logprobs.content`."""
    return [
        _token_json(entry.token) | {"top_logprobs": [_token_json(token) for token in entry.top]}
        for entry in logprobs
    ]


def _whole_choice(answer: TextDelta, head: AnswerHead) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text,
        "refusal": None,
        "annotations": [],
    }
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _function_json(call)}
            for call in answer.tool_calls
        ]
    logprobs = {"content": logprobs_json(answer.logprobs), "refusal": None}
    return {
        "index": answer.index,
        "message": message,
        "logprobs": logprobs if answer.logprobs or head.has_logprobs else None,
        "finish_reason": answer.finish_reason,
    }


def _call_delta_json(call: ToolCallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    begin = {"index": call.index, "id": call.id, "type": "function"}
    return begin | {"function": _function_json(call)}


def _function_json(call: ToolCallDelta) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


def _logprobs_text(logprobs: Sequence[TextLogprobs]) -> str:
    if not logprobs:
        return "null"
    return _dumps({"content": logprobs_json(logprobs), "refusal": None})


def _token_json(token: LogprobToken) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}


def obfuscation(num_chars: int) -> str:
    """A member that fills an object up to a multiple of some characters."""
    missing = -num_chars % _OBFUSCATION_STEP
    return f',"obfuscation":"{secrets.token_urlsafe(_OBFUSCATION_STEP)[:missing]}"'


def _dumps(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
