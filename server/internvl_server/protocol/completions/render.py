"""Core to wire: text deltas to the JSON of `/v1/completions`, whose chunks and answers look alike."""

import codecs
import json
from collections.abc import Sequence
from typing import Any

from internvl_server.core import LogprobToken, TextDelta, TextLogprobs, Usage
from internvl_server.protocol.chat.render import AnswerHead, obfuscation, usage_json

__all__ = ["CompletionWriter", "LegacyLogprobs", "text_completion"]

_KIND = "text_completion"


class LegacyLogprobs:
    """Writes the log probabilities of one choice, piece by piece, in the older format.

    Args:
        num_top: Likeliest tokens that are shown at each place, besides the chosen one.
    """

    def __init__(self, num_top: int) -> None:
        self._num_top = num_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

    def json(self, logprobs: Sequence[TextLogprobs]) -> dict[str, Any] | None:
        r"""`tokens`, `token_logprobs`, `top_logprobs` and `text_offset`; None where there are none.

        Offsets are in characters, from where the choice's text begins. A token that is part of a character
        is written as `bytes:\xe4`, at the offset where that character will stand.
        """
        if not logprobs:
            return None
        return {
            "text_offset": [self._offset(entry.token) for entry in logprobs],
            "token_logprobs": [entry.token.logprob for entry in logprobs],
            "tokens": [_name(entry.token) for entry in logprobs],
            "top_logprobs": [self._top(entry) for entry in logprobs],
        }

    def _offset(self, token: LogprobToken) -> int:
        offset = self._num_chars
        self._num_chars += len(self._decoder.decode(token.data))
        return offset

    def _top(self, entry: TextLogprobs) -> dict[str, float]:
        """By name; of two tokens of one name the likelier stays."""
        top = {_name(token): token.logprob for token in reversed(entry.top[: self._num_top])}
        return {_name(entry.token): entry.token.logprob} | top


class CompletionWriter:
    """Writes the chunks of one streamed answer.

    Args:
        head: What they begin with; its id is `cmpl-…`.
        num_top: As in the request's `logprobs`; None when nobody asked.
        include_usage: Whether chunks carry `usage` (null until the last).
        obfuscate: Whether chunks are filled up so that their lengths tell little of the text's.
    """

    def __init__(
        self, head: AnswerHead, *, num_top: int | None, include_usage: bool, obfuscate: bool
    ) -> None:
        self._head = _dumps(head.json(_KIND))[:-1] + ',"choices":['
        self._tail = '],"usage":null' if include_usage else "]"
        self._num_top = num_top
        self._obfuscate = obfuscate
        self._logprobs: dict[int, LegacyLogprobs] = {}

    def delta(self, delta: TextDelta) -> bytes:
        """A chunk with what a delta has."""
        logprobs = None
        if self._num_top is not None:
            writer = self._logprobs.setdefault(delta.index, LegacyLogprobs(self._num_top))
            logprobs = writer.json(delta.logprobs)
        choice = _dumps(_choice(delta, delta.text, logprobs))
        filler = obfuscation(len(choice)) if self._obfuscate else ""
        return (self._head + choice + self._tail + filler + "}").encode()

    def usage(self, usage: Usage) -> bytes:
        """The last chunk of a stream with `include_usage`: no choices, the counts."""
        return (self._head + '],"usage":' + _dumps(usage_json(usage)) + "}").encode()


def text_completion(
    head: AnswerHead, answers: Sequence[TextDelta], shown: Sequence[str], num_top: int | None
) -> dict[str, Any]:
    """The JSON of a whole answer.

    Args:
        head: What it begins with.
        answers: One entry a choice; the last has the usage.
        shown: What stands before each choice's text: its prompt, or nothing.
        num_top: As in the request's `logprobs`; None when nobody asked.
    """
    usage = answers[-1].usage
    choices = [
        _choice(answer, before + answer.text, LegacyLogprobs(num_top or 0).json(answer.logprobs))
        for answer, before in zip(answers, shown, strict=True)
    ]
    return head.json(_KIND) | {"choices": choices, "usage": usage_json(usage) if usage else None}


def _choice(delta: TextDelta, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "text": text,
        "index": delta.index,
        "logprobs": logprobs,
        "finish_reason": delta.finish_reason,
    }


def _name(token: LogprobToken) -> str:
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _dumps(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
