"""One answer, from an engine's tokens to what the client sees: text, tool calls, log probabilities."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from internvl_server.core import (
    FinishReason,
    TextDelta,
    TextLogprobs,
    TokenDelta,
    TokenLogprobs,
    ToolCallDelta,
)
from internvl_server.output.detokenizer import Detokenizer
from internvl_server.output.stop import StopMatcher
from internvl_server.output.tool_calls import ParsedText, ToolCallParser

__all__ = ["AnswerRules", "AnswerText"]


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """What of an answer is shown.

    `end_ids` are the tokens that end it; their text is shown only with `show_end`. Stop strings count
    from the token after `min_tokens`. `to_logprobs` makes log probabilities presentable; None when
    nobody asked for them.
    """

    end_ids: frozenset[int] = frozenset()
    show_end: bool = False
    min_tokens: int = 0
    to_logprobs: Callable[[int, TokenLogprobs], TextLogprobs] | None = None


class AnswerText:
    """Turns one answer's token deltas into text deltas.

    Args:
        rules: What is shown.
        detokenizer: Of this answer.
        stop: Of this answer.
        calls: Finds tool calls; None when no tool may be called.
    """

    def __init__(
        self,
        rules: AnswerRules,
        detokenizer: Detokenizer,
        stop: StopMatcher,
        calls: ToolCallParser | None = None,
    ) -> None:
        self._rules = rules
        self._detokenizer = detokenizer
        self._stop = stop
        self._calls = calls
        # With neither, the deltas of a slow reader need not be looked at token by token.
        self._is_plain = not stop.is_active and rules.to_logprobs is None
        self._num_chars_made = self._num_chars_certain = 0
        self._pending: list[tuple[int, TextLogprobs]] = []
        self.num_tokens = 0

    def push(self, delta: TokenDelta) -> TextDelta:
        """What the delta makes certain; the last one has a `finish_reason`, and no `usage` yet.

        Tokens after a stop string are neither shown nor counted, however many came in one delta.
        """
        text = self._plain_text(delta) if self._is_plain else self._text_token_by_token(delta)
        if delta.finish_reason is not None and not self._stop.is_stopped:
            text += self._rest()
        return self._parsed(text, "stop" if self._stop.is_stopped else delta.finish_reason)

    def _plain_text(self, delta: TokenDelta) -> str:
        self.num_tokens += len(delta.token_ids)
        return self._detokenizer.push(delta.token_ids[: self._num_shown(delta)])

    def _text_token_by_token(self, delta: TokenDelta) -> str:
        text = ""
        num_shown = self._num_shown(delta)
        logprobs = (delta.logprobs or ()) if self._rules.to_logprobs else ()
        for index, token_id in enumerate(delta.token_ids):
            self.num_tokens += 1
            if index == num_shown:
                break
            if index < len(logprobs):
                self._note(token_id, logprobs[index])
            text += self._certain(self._detokenizer.push((token_id,)))
            if self._stop.is_stopped:
                break
        return text

    def _num_shown(self, delta: TokenDelta) -> int:
        """Tokens whose text belongs to the answer: all but the one that ended it."""
        ids = delta.token_ids
        ended = delta.finish_reason == "stop" and bool(ids) and ids[-1] in self._rules.end_ids
        return len(ids) - (ended and not self._rules.show_end)

    def _certain(self, piece: str) -> str:
        """What of a new piece, and of what was held back, can be shown now."""
        self._num_chars_made += len(piece)
        counts = self.num_tokens > self._rules.min_tokens
        text = self._stop.push(piece) if counts else piece
        self._num_chars_certain += len(text)
        return text

    def _rest(self) -> str:
        """What was held back is certain at the end, unless it is a stop string."""
        text = self._certain(self._detokenizer.flush())
        if not self._stop.is_stopped:
            text += self._stop.flush()
            self._num_chars_certain = self._num_chars_made + 1  # every token is
        return text

    def _note(self, token_id: int, logprobs: TokenLogprobs) -> None:
        assert self._rules.to_logprobs is not None
        entry = self._rules.to_logprobs(token_id, logprobs)
        self._pending.append((self._num_chars_made, entry))

    def _logprobs(self) -> tuple[TextLogprobs, ...]:
        """Those of tokens whose text has begun to be shown."""
        ready = [entry for start, entry in self._pending if start < self._num_chars_certain]
        del self._pending[: len(ready)]
        return tuple(ready)

    def _parsed(self, text: str, reason: FinishReason | None) -> TextDelta:
        if self._calls is None:
            return self._delta(text, (), reason)
        parsed = [self._calls.push(text)]
        if self._calls.is_complete:
            reason = reason or "stop"
        if reason is not None:
            parsed.append(self._calls.flush())
        # A stop string may stand in a call's arguments, and cut it.
        if reason == "stop" and self._calls.num_calls > self._calls.has_cut_call:
            reason = "tool_calls"
        return self._delta("".join(p.text for p in parsed), _joined(parsed), reason)

    def _delta(
        self, text: str, tool_calls: tuple[ToolCallDelta, ...], reason: FinishReason | None
    ) -> TextDelta:
        is_shown = bool(text or tool_calls or reason is not None)
        logprobs = self._logprobs() if self._pending and is_shown else ()
        return TextDelta(text, reason, logprobs=logprobs, tool_calls=tool_calls)


def _joined(parsed: Iterable[ParsedText]) -> tuple[ToolCallDelta, ...]:
    calls: Sequence[ToolCallDelta] = [call for piece in parsed for call in piece.tool_calls]
    return tuple(calls)
