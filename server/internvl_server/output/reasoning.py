"""Separates the reasoning at the beginning of an answer from the text after it."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

from internvl_server.core import TokenDelta, TokenLogprobs
from internvl_server.output.detokenizer import Detokenizer, json_string

__all__ = ["AfterReasoning", "ReasoningPiece", "ReasoningReader", "Token", "delta_of", "tokens_of"]

_BREAKS = "\r\n"

Token: TypeAlias = tuple[int, TokenLogprobs | None]
"""The id of a token, and its log probabilities if they were requested."""


def tokens_of(delta: TokenDelta) -> list[Token]:
    """The tokens of a delta."""
    return list(zip_longest(delta.token_ids, delta.logprobs or ()))


def delta_of(tokens: Sequence[Token], delta: TokenDelta) -> TokenDelta:
    """The delta with these tokens alone."""
    logprobs = tuple([logprobs for _, logprobs in tokens if logprobs is not None])
    ids = tuple([token_id for token_id, _ in tokens])
    return delta._replace(token_ids=ids, logprobs=logprobs or None)


class ReasoningPiece(NamedTuple):
    """Reasoning that is certain now, the tokens it took with its tags, and the tokens after it."""

    text: str
    taken: Sequence[Token] = ()
    rest: Sequence[Token] = ()


class ReasoningReader:
    """Reads the reasoning at the beginning of one answer: what stands between `<think>` and `</think>`.

    Both are single tokens. Before the first there may only be whitespace: an answer that begins with anything
    else has no reasoning, and a later `<think>` is text. Line breaks at both ends of the reasoning belong to
    neither side. The pieces do not depend on how the tokens come.

    Args:
        think_ids: The ids of the two tags.
        bytes_of: UTF-8 bytes of a token id.
        detokenizer: A new one.
        is_open: Whether the prompt has begun the reasoning.
    """

    def __init__(
        self,
        think_ids: tuple[int, int],
        bytes_of: Callable[[int], bytes],
        detokenizer: Detokenizer,
        *,
        is_open: bool = False,
    ) -> None:
        self._begin_id, self._end_id = think_ids
        self._bytes_of = bytes_of
        self._detokenizer = detokenizer
        self._held: list[Token] = []  # whitespace that may come before the reasoning
        self._breaks = ""  # line breaks that may be the end of the reasoning
        self._has_text = False
        self.has_begun = is_open
        self.is_over = False

    def push(self, tokens: Sequence[Token], *, is_last: bool) -> ReasoningPiece:
        """Take more tokens of the answer, until `is_over`.

        Args:
            tokens: The next ones.
            is_last: Whether none will follow.
        """
        tokens, self._held = [*self._held, *tokens], []
        start = 0
        if not self.has_begun:
            start = self._first_written(tokens)
            if start == len(tokens) and not is_last:
                self._held = tokens
                return ReasoningPiece("")
            if start == len(tokens) or tokens[start][0] != self._begin_id:
                self.is_over = True
                return ReasoningPiece("", rest=tokens)
            self.has_begun = True
            start += 1
        return self._read(tokens, start, is_last=is_last)

    def inside(self, token_ids: Sequence[int]) -> str | None:
        """As `push` for tokens that are all within the reasoning, where most are; None if they are not."""
        if not self.has_begun or self._end_id in token_ids:
            return None
        return self._without_breaks(self._detokenizer.push(token_ids))

    def _read(self, tokens: list[Token], start: int, *, is_last: bool) -> ReasoningPiece:
        ids = [token_id for token_id, _ in tokens]
        self.is_over = self._end_id in ids[start:]
        end = ids.index(self._end_id, start) if self.is_over else len(ids)
        text = self._detokenizer.push(ids[start:end])
        if self.is_over or is_last:
            text += self._detokenizer.flush()
        end += self.is_over
        return ReasoningPiece(self._without_breaks(text), tokens[:end], tokens[end:])

    def _first_written(self, tokens: Sequence[Token]) -> int:
        """The index of the first token that is not whitespace."""
        places = (i for i, (token_id, _) in enumerate(tokens) if not self._is_space(token_id))
        return next(places, len(tokens))

    def _is_space(self, token_id: int) -> bool:
        return self._bytes_of(token_id).isspace()

    def _without_breaks(self, text: str) -> str:
        """Text without line breaks at the beginning; those at the end are held back."""
        text = self._breaks + text
        if not self._has_text:
            text = text.lstrip(_BREAKS)
        certain = text.rstrip(_BREAKS)
        self._breaks = text[len(certain) :]
        self._has_text |= bool(certain)
        return certain


class AfterReasoning:
    """Detokenizes the text after reasoning, without the line breaks between them.

    Args:
        detokenizer: A new one.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._has_text = False

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these ids complete."""
        return self._shown(self._detokenizer.push(token_ids))

    def push_json(self, token_ids: Sequence[int]) -> bytes:
        """As `push`, as an encoded JSON string."""
        if self._has_text:
            return self._detokenizer.push_json(token_ids)
        return json_string(self.push(token_ids))

    def flush(self) -> str:
        """The text that is left when no id will follow."""
        return self._shown(self._detokenizer.flush())

    def _shown(self, text: str) -> str:
        if not self._has_text:
            text = text.lstrip(_BREAKS)
            self._has_text = bool(text)
        return text
