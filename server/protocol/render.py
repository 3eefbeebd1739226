"""Core to wire: text deltas to the JSON of completions and chunks, as UTF-8 bytes.

Chunks are written from a prepared head and tail: a stream has thousands and they differ in one string.
"""

import json
from typing import Any

from server.core import FinishReason, TextDelta, Usage

__all__ = ["ChunkWriter", "completion", "usage_json"]


class ChunkWriter:
    """Writes the chunks of one streamed answer.

    Args:
        completion_id: `chatcmpl-…`.
        model: The served name.
        created: Unix time in seconds.
        fingerprint: `system_fingerprint`.
        include_usage: Whether chunks carry `usage` (null until the last).
    """

    def __init__(
        self,
        completion_id: str,
        model: str,
        *,
        created: int,
        fingerprint: str,
        include_usage: bool,
    ) -> None:
        head = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._head = _dumps(head)[:-1] + ',"choices":['
        self._tail = '],"usage":null}' if include_usage else "]}"

    def role(self) -> bytes:
        """The first chunk: who speaks."""
        return self._choice('{"role":"assistant","content":"","refusal":null}', "null")

    def content(self, text: str) -> bytes:
        """A chunk with text."""
        return self._choice('{"content":' + _dumps(text) + "}", "null")

    def finish(self, reason: FinishReason) -> bytes:
        """The chunk that tells why the answer ended."""
        return self._choice("{}", f'"{reason}"')

    def usage(self, usage: Usage) -> bytes:
        """The last chunk of a stream with `include_usage`: no choices, the counts."""
        return (self._head + '],"usage":' + _dumps(usage_json(usage)) + "}").encode()

    def _choice(self, delta: str, finish_reason: str) -> bytes:
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish_reason}}}'
        return (self._head + choice + self._tail).encode()


def completion(
    completion_id: str, model: str, *, created: int, fingerprint: str, answer: TextDelta
) -> dict[str, Any]:
    """The JSON of a whole answer.

    Args:
        completion_id: `chatcmpl-…`.
        model: The served name.
        created: Unix time in seconds.
        fingerprint: `system_fingerprint`.
        answer: All of the text, with its finish reason and usage.
    """
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": answer.finish_reason,
    }
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "system_fingerprint": fingerprint,
        "choices": [choice],
        "usage": usage_json(answer.usage) if answer.usage else None,
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`; `image_tokens` are part of `prompt_tokens`."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {"image_tokens": usage.num_image_tokens},
    }


def _dumps(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
