"""Writes text deltas as the JSON of `/v1/completions`, whose chunks and answers look alike."""

from collections.abc import Callable, Sequence
from typing import Any

from internvl_server.core import LogprobToken, TextDelta, TextLogprobs, Usage
from internvl_server.protocol.chat.render import (
    DONE,
    AnswerHead,
    dumps,
    obfuscation,
    usage_json,
    usage_tail,
)
from internvl_server.protocol.dialects import COMPLETIONS, ErrorBody

__all__ = ["CompletionWriter", "legacy_logprobs", "text_completion"]

_KIND = "text_completion"


def legacy_logprobs(entries: Sequence[TextLogprobs], num_top: int) -> dict[str, Any] | None:
    r"""`tokens`, `token_logprobs`, `top_logprobs` and `text_offset`; None where there are none.

    Offsets are in characters from the start of the choice's text. A token that is part of a character is
    written as `bytes:\xe4`, at the offset of that character.

    Args:
        entries: Those of a piece of one choice.
        num_top: Most likely tokens that are shown at each position, besides the chosen one.
    """
    if not entries:
        return None
    return {
        "text_offset": [entry.offset for entry in entries],
        "token_logprobs": [entry.token.logprob for entry in entries],
        "tokens": [_name(entry.token) for entry in entries],
        "top_logprobs": [_top(entry, num_top) for entry in entries],
    }


def _top(entry: TextLogprobs, num_top: int) -> dict[str, float]:
    """Log probabilities by name; of two tokens with one name the more likely one is kept."""
    top = {_name(token): token.logprob for token in reversed(entry.top[:num_top])}
    return {_name(entry.token): entry.token.logprob} | top


class CompletionWriter:
    """Writes the events of one streamed answer.

    Args:
        head: The members that all chunks begin with; its id is `cmpl-…`.
        shown: The text before each choice's own: its prompt, or nothing.
        num_top: As in the request's `logprobs`; None when they were not requested.
        include_usage: Whether chunks carry `usage`, which is null until the last.
        usage: Makes the usage so far, which each chunk carries; None when it was not requested.
        obfuscate: Whether chunks are padded, so that their lengths reveal little about the text's.
    """

    dialect = COMPLETIONS
    num_logprobs = 0
    end = DONE

    def __init__(
        self,
        head: AnswerHead,
        *,
        shown: Sequence[str],
        num_top: int | None,
        include_usage: bool = False,
        usage: Callable[[], Usage] | None = None,
        obfuscate: bool = False,
    ) -> None:
        self._head = "data: " + dumps(head.json(_KIND))[:-1] + ',"choices":['
        self._plain_tail = '],"usage":null' if include_usage else "]"
        self._shown = shown
        self._num_top = num_top
        self._include_usage = include_usage
        self._usage = usage
        self._obfuscate = obfuscate

    def begin(self) -> bytes:
        """A chunk for each prompt that is shown before its answer."""
        shown = [TextDelta(text, index=i) for i, text in enumerate(self._shown) if text]
        return b"".join([self.delta(delta) for delta in shown])

    def delta(self, delta: TextDelta) -> bytes:
        """The chunks of a delta: its content, and the usage."""
        logprobs = legacy_logprobs(delta.logprobs, self._num_top or 0)
        choice = dumps(_choice(delta, delta.text, logprobs))
        filler = obfuscation(len(choice)) if self._obfuscate else ""
        tail = self._plain_tail if self._usage is None else usage_tail(self._usage())
        chunks = f"{self._head}{choice}{tail}{filler}}}\n\n"
        if self._include_usage and delta.usage is not None:
            chunks += f"{self._head}{usage_tail(delta.usage)}}}\n\n"
        return chunks.encode()

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """What stands before and after the JSON string of a choice's text; None if chunks differ in more."""
        if self._obfuscate or self._usage is not None or self._num_top is not None:
            return None
        before, _, after = self.delta(TextDelta("", index=index)).rpartition(b'""')
        return before, after

    def failed(self, error: ErrorBody) -> bytes:
        """The last event of an answer that failed; no `[DONE]` follows it."""
        return f"data: {dumps(self.dialect.envelope(error))}\n\n".encode()


def text_completion(
    head: AnswerHead, answers: Sequence[TextDelta], shown: Sequence[str], num_top: int | None
) -> dict[str, Any]:
    """The JSON of a whole answer.

    Args:
        head: The members it begins with.
        answers: One entry a choice; the last has the usage.
        shown: The text before each choice's own: its prompt, or nothing.
        num_top: As in the request's `logprobs`; None when they were not requested.
    """
    usage = answers[-1].usage
    choices = [
        _choice(answer, before + answer.text, legacy_logprobs(answer.logprobs, num_top or 0))
        for answer, before in zip(answers, shown, strict=True)
    ]
    return head.json(_KIND) | {"choices": choices, "usage": usage_json(usage) if usage else None}


def _choice(delta: TextDelta, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    choice = {
        "text": text,
        "index": delta.index,
        "logprobs": logprobs,
        "finish_reason": delta.finish_reason,
    }
    notices = {"refusal": delta.refusal, "schema_violation": delta.violation}
    return choice | {name: text for name, text in notices.items() if text}


def _name(token: LogprobToken) -> str:
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)
