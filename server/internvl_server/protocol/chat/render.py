"""Writes text deltas as the JSON of completions and the events of a stream.

Chunks are written from a prepared head and tail: a stream has thousands that differ in one string.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from internvl_server.core import LogprobToken, TextDelta, TextLogprobs, ToolCallDelta, Usage
from internvl_server.protocol.dialects import CHAT, ErrorBody

__all__ = [
    "DONE",
    "AnswerHead",
    "ChunkWriter",
    "completion",
    "dumps",
    "logprobs_json",
    "obfuscation",
    "usage_json",
    "usage_tail",
]

DONE = b"data: [DONE]\n\n"

# Made once: every event of every stream is written with it.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

# With obfuscation, chunks are padded to multiples of this many characters.
_OBFUSCATION_STEP = 32


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The members that all chunks of an answer, or the whole answer, begin with.

    `id` is `chatcmpl-…`, `model` the served name, `created` Unix time in seconds, `fingerprint` the
    `system_fingerprint`. `service_tier` is set when the request named one. `has_logprobs` says that log
    probabilities were requested: an answer without tokens then has an empty list of them.
    """

    id: str
    model: str
    created: int
    fingerprint: str
    service_tier: str | None = None
    has_logprobs: bool = False

    def json(self, kind: str) -> dict[str, Any]:
        """The members, for an object of this kind."""
        head = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
        return head | ({"service_tier": self.service_tier} if self.service_tier else {})


class ChunkWriter:
    """Writes the events of one streamed answer.

    Args:
        head: The members that all chunks begin with.
        num_choices: Choices of the answer.
        include_usage: Whether chunks carry `usage`, which is null until the last.
        usage: Makes the usage so far, which each chunk carries; None when it was not requested.
        obfuscate: Whether chunks are padded, so that their lengths reveal little about the text's.
    """

    dialect = CHAT
    num_logprobs = 0
    end = DONE

    def __init__(
        self,
        head: AnswerHead,
        *,
        num_choices: int = 1,
        include_usage: bool = False,
        usage: Callable[[], Usage] | None = None,
        obfuscate: bool = False,
    ) -> None:
        self._head = "data: " + dumps(head.json("chat.completion.chunk"))[:-1] + ',"choices":['
        self._plain_tail = '],"usage":null' if include_usage else "]"
        self._num_choices = num_choices
        self._include_usage = include_usage
        self._usage = usage
        self._obfuscate = obfuscate

    def begin(self) -> bytes:
        """The first chunk of each choice, which has its role."""
        role = '{"role":"assistant","content":"","refusal":null}'
        return "".join([self._choice(index, role) for index in range(self._num_choices)]).encode()

    def delta(self, delta: TextDelta) -> bytes:
        """The chunks of a delta: its content, the reason why its choice ended, the usage."""
        chunks = ""
        if delta.reasoning:
            chunks += self._choice(delta.index, *_reasoning(delta))
            delta = replace(delta, logprobs=_logprobs_of(delta, are_reasoning=False))
        if delta.text or delta.tool_calls or delta.logprobs:
            chunks += self._choice(delta.index, *_content(delta))
        if delta.refusal:
            chunks += self._choice(delta.index, f'{{"refusal":{dumps(delta.refusal)}}}')
        if delta.finish_reason is not None:
            ending = f'"{delta.finish_reason}"'
            if delta.violation:
                ending += f',"schema_violation":{dumps(delta.violation)}'
            chunks += self._choice(delta.index, "{}", finish_reason=ending)
        if self._include_usage and delta.usage is not None:
            chunks += f"{self._head}{usage_tail(delta.usage)}}}\n\n"
        return chunks.encode()

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """What stands before and after the JSON string of a choice's text; None if chunks differ in more."""
        if self._obfuscate or self._usage is not None:
            return None
        before, _, after = self._choice(index, '{"content":""}').rpartition('""')
        return before.encode(), after.encode()

    def failed(self, error: ErrorBody) -> bytes:
        """The last event of an answer that failed; no `[DONE]` follows it."""
        return f"data: {dumps(self.dialect.envelope(error))}\n\n".encode()

    def _choice(
        self, index: int, delta: str, logprobs: str = "null", *, finish_reason: str = "null"
    ) -> str:
        choice = (
            f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},'
            f'"finish_reason":{finish_reason}}}'
        )
        filler = obfuscation(len(choice)) if self._obfuscate else ""
        return f"{self._head}{choice}{self._tail()}{filler}}}\n\n"

    def _tail(self) -> str:
        """What follows a choice."""
        return self._plain_tail if self._usage is None else usage_tail(self._usage())


def completion(head: AnswerHead, answers: Sequence[TextDelta]) -> dict[str, Any]:
    """The JSON of a whole answer, in which an iterator stands for the list of log probabilities.

    Args:
        head: The members it begins with.
        answers: One entry a choice; the last has the usage.
    """
    usage = answers[-1].usage
    return head.json("chat.completion") | {
        "choices": [_whole_choice(answer, head) for answer in answers],
        "usage": usage_json(usage) if usage else None,
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`; `images`, an extension of this server, has the size of each image or frame."""
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
        "completion_tokens_details": {"reasoning_tokens": usage.num_reasoning_tokens},
    }


def logprobs_json(logprobs: Sequence[TextLogprobs]) -> list[dict[str, Any]]:
    """The entries of `logprobs.content`."""
    return [_entry_json(entry) for entry in logprobs]


def _entry_json(entry: TextLogprobs) -> dict[str, Any]:
    return _token_json(entry.token) | {"top_logprobs": [_token_json(top) for top in entry.top]}


def _whole_choice(answer: TextDelta, head: AnswerHead) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if answer.refusal else answer.text,
        "refusal": answer.refusal or None,
        "annotations": [],
    }
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _function_json(call)}
            for call in answer.tool_calls
        ]
    # Made when they are written: they may be a hundred thousand objects.
    logprobs = {"content": map(_entry_json, answer.logprobs), "refusal": None}
    choice = {
        "index": answer.index,
        "message": message,
        "logprobs": logprobs if answer.logprobs or head.has_logprobs else None,
        "finish_reason": answer.finish_reason,
    }
    return choice | ({"schema_violation": answer.violation} if answer.violation else {})


def _reasoning(delta: TextDelta) -> tuple[str, str]:
    """The members `delta` and `logprobs` of a chunk of reasoning."""
    content = f'{{"reasoning_content":{dumps(delta.reasoning)}}}'
    logprobs = logprobs_json(_logprobs_of(delta, are_reasoning=True))
    return content, dumps({"content": logprobs, "refusal": None}) if logprobs else "null"


def _logprobs_of(delta: TextDelta, *, are_reasoning: bool) -> tuple[TextLogprobs, ...]:
    return tuple([entry for entry in delta.logprobs if entry.is_reasoning == are_reasoning])


def _content(delta: TextDelta) -> tuple[str, str]:
    """The members `delta` and `logprobs` of a chunk."""
    if not delta.tool_calls and not delta.logprobs:
        return f'{{"content":{dumps(delta.text)}}}', "null"
    content: dict[str, Any] = {"content": delta.text} if delta.text else {}
    if delta.tool_calls:
        content["tool_calls"] = [_call_delta_json(call) for call in delta.tool_calls]
    if not delta.logprobs:
        return dumps(content), "null"
    return dumps(content), dumps({"content": logprobs_json(delta.logprobs), "refusal": None})


def _call_delta_json(call: ToolCallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    begin = {"index": call.index, "id": call.id, "type": "function"}
    return begin | {"function": _function_json(call)}


def _function_json(call: ToolCallDelta) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


def _token_json(token: LogprobToken) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}


def usage_tail(usage: Usage) -> str:
    """The end of a list of choices, and the usage after it."""
    return f'],"usage":{dumps(usage_json(usage))}'


def obfuscation(num_chars: int) -> str:
    """A member that pads an object to a multiple of 32 characters."""
    missing = -num_chars % _OBFUSCATION_STEP
    return f',"obfuscation":"{secrets.token_urlsafe(_OBFUSCATION_STEP)[:missing]}"'


def dumps(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """Compact JSON."""
    return _ENCODER.encode(value)
