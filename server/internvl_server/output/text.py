"""Turns the tokens of one answer into what the client sees: text, reasoning, calls, log probabilities."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from internvl_server.core import (
    AnswerParams,
    AnswerStart,
    FinishReason,
    GenerateRequest,
    TextDelta,
    TextLogprobs,
    TokenDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCalls,
)
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.output.detokenizer import Detokenizer, new_detokenizer
from internvl_server.output.logprobs import IN_REASONING, LogprobWriter
from internvl_server.output.reasoning import (
    AfterReasoning,
    ReasoningReader,
    Token,
    delta_of,
    tokens_of,
)
from internvl_server.output.stop import StopMatcher
from internvl_server.output.tool_calls import ToolCallParser

__all__ = ["AnswerRules", "AnswerText"]


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """Which parts of an answer are visible.

    `end_ids` are the tokens that end it; their text is visible only with `show_end`. Stop strings count
    from the token after `min_tokens`. `to_logprobs` converts log probabilities for the client; it is None
    when they were not requested. With `keeps_tags` reasoning stays in the text as it was written.
    """

    end_ids: frozenset[int] = frozenset()
    show_end: bool = False
    min_tokens: int = 0
    to_logprobs: LogprobWriter | None = None
    keeps_tags: bool = False


class AnswerText:
    """Turns one answer's token deltas into text deltas.

    Args:
        rules: Which parts are visible.
        detokenizer: A new one.
        stop: A new one.
        calls: Finds tool calls; None when no tool may be called.
        reasoning: Finds the reasoning before the text; None when there can be none.
        shows_reasoning: Whether the reasoning is visible.
    """

    def __init__(
        self,
        rules: AnswerRules,
        detokenizer: Detokenizer,
        stop: StopMatcher,
        calls: ToolCallParser | None = None,
        *,
        reasoning: ReasoningReader | None = None,
        shows_reasoning: bool = True,
    ) -> None:
        self._rules = rules
        self._detokenizer = detokenizer
        self._stop = stop
        self._calls = calls
        self._reasoning = reasoning  # None once the text has begun
        self._shows_reasoning = shows_reasoning
        # Fast path: without stop strings and log probabilities, whole deltas are decoded at once.
        self._is_plain = not stop.is_active and rules.to_logprobs is None
        self._num_chars_made = self._num_chars_certain = 0
        self._pending: list[TextLogprobs] = []
        self.num_tokens = self.num_reasoning_tokens = 0

    @classmethod
    def of(
        cls,
        request: GenerateRequest,
        params: AnswerParams,
        vocabulary: Vocabulary,
        start: AnswerStart = "text",
    ) -> Self:
        """The text of a new answer to a request."""
        return cls(
            _rules(request, params, vocabulary),
            new_detokenizer(vocabulary, skip_special_tokens=params.skip_special_tokens),
            StopMatcher(request.sampling.stop, is_shown=params.include_stop),
            _call_parser(request, params),
            reasoning=_reasoning_reader(params, vocabulary, start),
            shows_reasoning=params.shows_reasoning,
        )

    def push(self, delta: TokenDelta) -> list[TextDelta]:
        """The text that is certain now; the last delta has a `finish_reason`, and no `usage` yet.

        There are several if text follows a call: the text of one comes before its calls.

        Tokens after a stop string, or after the only call there may be, are neither visible nor counted, even
        if they came in the same delta. Stop strings and tool calls are not looked for in reasoning.
        """
        if self._reasoning is None:
            return self._push_text(delta)
        return self._push_with_reasoning(self._reasoning, delta)

    def _push_with_reasoning(self, reader: ReasoningReader, delta: TokenDelta) -> list[TextDelta]:
        """The reasoning that is certain now, and the text if it has begun."""
        rules = self._rules
        if delta.finish_reason is None and rules.to_logprobs is None and not rules.keeps_tags:
            inside = reader.inside(delta.token_ids)
            if inside is not None:
                self.num_tokens += len(delta.token_ids)
                self.num_reasoning_tokens += len(delta.token_ids)
                return [TextDelta("", reasoning=inside if self._shows_reasoning else "")]
        tokens = tokens_of(delta)
        num_shown = self._num_shown(delta)
        is_last = delta.finish_reason is not None
        text, taken, rest = reader.push(tokens[:num_shown], is_last=is_last)
        self.num_tokens += len(taken)
        self.num_reasoning_tokens += len(taken)
        if reader.is_over:
            self._reasoning = None
        if rules.keeps_tags:
            return self._push_written(taken, delta_of([*rest, *tokens[num_shown:]], delta))
        if self._shows_reasoning:
            for token_id, logprobs in taken:
                self._add_logprobs(token_id, logprobs, IN_REASONING)
        if reader.is_over and reader.has_begun:
            self._detokenizer = AfterReasoning(self._detokenizer)
        made = self._push_text(delta_of([*rest, *tokens[num_shown:]], delta))
        return self._led(made, reasoning=text) if text and self._shows_reasoning else made

    def _push_written(self, tokens: Iterable[Token], delta: TokenDelta) -> list[TextDelta]:
        """As `_push_text`, after tokens of reasoning, in which nothing is looked for."""
        written = ""
        for token_id, logprobs in tokens:
            self._add_logprobs(token_id, logprobs, self._num_chars_made)
            piece = self._detokenizer.push((token_id,))
            self._num_chars_made += len(piece)
            written += piece
        self._num_chars_certain = self._num_chars_made
        made = self._push_text(delta)
        return self._led(made, text=written) if written else made

    def _led(
        self, made: list[TextDelta], *, text: str = "", reasoning: str = ""
    ) -> list[TextDelta]:
        made[0] = replace(made[0], text=text + made[0].text, reasoning=reasoning)
        made[-1] = replace(made[-1], logprobs=made[-1].logprobs or self._logprobs())
        return made

    def _push_text(self, delta: TokenDelta) -> list[TextDelta]:
        if self._calls is not None and self._calls.is_single and len(delta.token_ids) > 1:
            return self._push_until_call(delta)
        text = self._plain_text(delta) if self._is_plain else self._text_token_by_token(delta)
        if delta.finish_reason is not None and not self._stop.is_stopped:
            text += self._rest()
        return self._parsed(text, "stop" if self._stop.is_stopped else delta.finish_reason)

    def _push_until_call(self, delta: TokenDelta) -> list[TextDelta]:
        """As `_push_text`, one token at a time: those after the only call do not belong to the answer."""
        made: list[TextDelta] = []
        tokens = tokens_of(delta)
        for number, token in enumerate(tokens, 1):
            reason = delta.finish_reason if number == len(tokens) else None
            made += self._push_text(delta_of([token], delta._replace(finish_reason=reason)))
            if made[-1].finish_reason is not None:
                break
        whole = replace(
            made[-1],
            text="".join(d.text for d in made),
            tool_calls=tuple([call for d in made for call in d.tool_calls]),
            logprobs=tuple([entry for d in made for entry in d.logprobs]),
        )
        return [whole]

    def push_json(self, token_ids: Sequence[int]) -> bytes | None:
        """As `push`, for tokens that do not end the answer: their text as an encoded JSON string.

        None, and nothing taken, if their delta may have more than text.
        """
        if not self._is_plain or self._calls is not None or self._reasoning is not None:
            return None
        self.num_tokens += len(token_ids)
        return self._detokenizer.push_json(token_ids)

    def _plain_text(self, delta: TokenDelta) -> str:
        self.num_tokens += len(delta.token_ids)
        return self._detokenizer.push(delta.token_ids[: self._num_shown(delta)])

    def _text_token_by_token(self, delta: TokenDelta) -> str:
        text = ""
        num_shown = self._num_shown(delta)
        for index, (token_id, logprobs) in enumerate(tokens_of(delta)):
            self.num_tokens += 1
            if index == num_shown:
                break
            self._add_logprobs(token_id, logprobs, self._num_chars_made)
            text += self._certain(self._detokenizer.push((token_id,)))
            if self._stop.is_stopped:
                break
        return text

    def _num_shown(self, delta: TokenDelta) -> int:
        """Number of tokens whose text is visible: all but the one that ended the answer."""
        ids = delta.token_ids
        ended = delta.finish_reason == "stop" and bool(ids) and ids[-1] in self._rules.end_ids
        return len(ids) - (ended and not self._rules.show_end)

    def _certain(self, piece: str) -> str:
        """The text that can be shown now, of a new piece and of text that was held back."""
        self._num_chars_made += len(piece)
        counts = self.num_tokens > self._rules.min_tokens
        text = self._stop.push(piece) if counts else piece
        self._num_chars_certain += len(text)
        return text

    def _rest(self) -> str:
        """The text that was held back. It is certain at the end, unless it is a stop string."""
        text = self._certain(self._detokenizer.flush())
        if not self._stop.is_stopped:
            text += self._stop.flush()
            self._num_chars_certain = self._num_chars_made + 1  # every token is
        return text

    def _add_logprobs(self, token_id: int, logprobs: TokenLogprobs | None, offset: int) -> None:
        if logprobs is not None and self._rules.to_logprobs is not None:
            self._pending.append(self._rules.to_logprobs(token_id, logprobs, offset))

    def _logprobs(self) -> tuple[TextLogprobs, ...]:
        """Log probabilities of the tokens whose text has begun to be shown."""
        ready = [entry for entry in self._pending if entry.offset < self._num_chars_certain]
        del self._pending[: len(ready)]
        return tuple(ready)

    def _parsed(self, text: str, reason: FinishReason | None) -> list[TextDelta]:
        if self._calls is None:
            return [self._delta(text, (), reason)]
        *parts, last = self._calls.read(text, is_last=reason is not None)
        if self._calls.is_complete:
            reason = reason or "stop"
        # A stop string may stand in a call's arguments, and cut it.
        if reason == "stop" and self._calls.num_calls > self._calls.has_cut_call:
            reason = "tool_calls"
        before = [TextDelta(part.text, tool_calls=part.tool_calls) for part in parts]
        return [*before, self._delta(last.text, last.tool_calls, reason)]

    def _delta(
        self, text: str, tool_calls: tuple[ToolCallDelta, ...], reason: FinishReason | None
    ) -> TextDelta:
        is_shown = bool(text or tool_calls or reason is not None)
        logprobs = self._logprobs() if self._pending and is_shown else ()
        found = self._stop.found if reason == "stop" else None
        return TextDelta(text, reason, logprobs=logprobs, tool_calls=tool_calls, stop_string=found)


def _rules(request: GenerateRequest, params: AnswerParams, vocabulary: Vocabulary) -> AnswerRules:
    num_top = request.sampling.num_logprobs
    return AnswerRules(
        end_ids=request.stop_token_ids,
        show_end=params.include_stop,
        min_tokens=request.sampling.min_tokens,
        keeps_tags=params.shows_reasoning and not params.splits_reasoning,
        to_logprobs=None if num_top is None else LogprobWriter(vocabulary.bytes_of, num_top),
    )


def _call_parser(request: GenerateRequest, params: AnswerParams) -> ToolCallParser | None:
    if params.tool_choice.mode == "none" or not params.tool_names:
        return None
    return ToolCallParser(
        params.tool_choice,
        params.tool_names,
        lambda: f"call_{secrets.token_hex(12)}",
        is_guided=isinstance(request.sampling.constraint, ToolCalls),
    )


def _reasoning_reader(
    params: AnswerParams, vocabulary: Vocabulary, start: AnswerStart
) -> ReasoningReader | None:
    if vocabulary.think_ids is None or start == "text":
        return None
    return ReasoningReader(
        vocabulary.think_ids,
        vocabulary.bytes_of,
        new_detokenizer(vocabulary, skip_special_tokens=params.skip_special_tokens),
        is_open=start == "reasoning",
    )
