"""Guided decoding with llguidance: which tokens may come next."""

import re
from collections.abc import Collection, Iterable
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from internvl_server.core.vocabulary import Vocabulary
from internvl_server.errors import EngineError

__all__ = ["JUDGE", "CompiledGrammar", "GrammarMatcher", "GrammarVocabulary"]

# The program that writes constraints as the grammars that are compiled here.
JUDGE = "internvl_server.engine.guided.judge"

# A state takes one or two kilobytes. A request that needs more states fails; others are not affected.
_MAX_LEXER_STATES = 50_000
# First tokens tried when a constraint is compiled.
_MAX_TRIED = 4


class GrammarVocabulary:
    """The tokens of a model, indexed for matching. Takes a second for a large vocabulary.

    Args:
        table: The text of the tokens; its `token_bytes` are known.
        vocab_size: Number of logits, which may be more than the tokens that have text.
    """

    def __init__(self, table: Vocabulary, vocab_size: int) -> None:
        self.vocab_size: Final = vocab_size
        self._has_text = _has_text(table, vocab_size)
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Source(table, vocab_size)),
            n_vocab=vocab_size + 1,
            eos_token=vocab_size,
        )

    def compile(self, grammar: str) -> "CompiledGrammar":
        """Compile a grammar of llguidance. CPU-bound; releases the interpreter lock.

        Raises:
            ValueError: The grammar is malformed, unsupported or too large, or allows no text.
        """
        limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise ValueError(_reason(matcher.get_error()))
        first_ids = np.flatnonzero(_allowed(matcher, self.vocab_size))
        if not first_ids.size:
            raise ValueError("it allows no text")
        if matcher.is_error():
            raise ValueError(_reason(matcher.get_error()))
        _check_beginning(matcher, first_ids[:_MAX_TRIED].tolist())
        return CompiledGrammar(self, matcher)

    def without_text(self, token_ids: Iterable[int]) -> list[int]:
        """Those of the ids that have no text, in order."""
        return [i for i in sorted(token_ids) if not self._has_text[i]]


class CompiledGrammar:
    """The grammar of a constraint, shared by any number of answers. `start` is called by one thread only.

    Args:
        vocabulary: The model's.
        matcher: In the state before the first token.
    """

    def __init__(self, vocabulary: GrammarVocabulary, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher

    @property
    def warnings(self) -> list[str]:
        """What the grammar enforces less of than its schemas say, in llguidance's words."""
        return list(self._matcher.get_grammar_warnings())

    def start(self, stop_token_ids: Iterable[int]) -> "GrammarMatcher":
        """Begin an answer that ends with one of these ids."""
        vocabulary = self._vocabulary
        end_ids = vocabulary.without_text(stop_token_ids)
        return GrammarMatcher(self._matcher.deep_copy(), end_ids, vocabulary.vocab_size)


class GrammarMatcher:
    """Follows one answer through its grammar.

    Args:
        matcher: In the state before the first token; not shared.
        end_ids: Stop tokens without text, allowed where the text so far is a complete answer. A stop token
            with text is treated as any other token.
        vocab_size: Number of logits.
    """

    def __init__(self, matcher: LLMatcher, end_ids: Collection[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._end_ids = list(end_ids)
        self._update()

    @property
    def forbidden(self) -> NDArray[np.bool_]:
        """bool, (vocab_size,): the tokens that must not come next."""
        return self._forbidden

    @property
    def is_accepting(self) -> bool:
        """The text so far is a complete answer."""
        return self._is_accepting

    @property
    def is_complete(self) -> bool:
        """The text so far is a complete answer and no text can follow."""
        return self._is_complete

    def advance(self, token_id: int) -> None:
        """Append a token that is not forbidden.

        Raises:
            EngineError: The grammar has exceeded a limit on the states it may need.
        """
        if token_id in self._end_ids:
            self._is_complete = True
            return
        self._matcher.consume_token(token_id)
        self._update()

    def _update(self) -> None:
        # Computed eagerly, because only this shows that nothing can follow the last token of an answer.
        allowed = _allowed(self._matcher, self._vocab_size)
        self._is_accepting = is_accepting = self._matcher.is_accepting()
        self._is_complete = is_accepting and not allowed.any()
        if self._matcher.is_error() or not (is_accepting or allowed.any()):
            reason = self._matcher.get_error() or "it allows no token"
            raise EngineError(f"The constraint cannot be followed any further: {reason}")
        allowed[self._end_ids] = is_accepting
        self._forbidden: NDArray[np.bool_] = allowed == 0


def _check_beginning(matcher: LLMatcher, first_ids: Iterable[int]) -> None:
    """Try first tokens, because some limits are exceeded only there, and a refusal is better than a failure.

    Raises:
        ValueError: None of these tokens can be followed by another.
    """
    reason = ""
    for token_id in first_ids:
        answer = matcher.deep_copy()
        answer.consume_token(token_id)
        answer.compute_bitmask()
        if not answer.is_error():
            return
        reason = answer.get_error()
    raise ValueError(_reason(reason))


def _allowed(matcher: LLMatcher, vocab_size: int) -> NDArray[np.uint8]:
    """(vocab_size,): 1 for the tokens whose text may come next."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, count=vocab_size, bitorder="little")


class _Source:
    """A vocabulary in the form that llguidance reads.

    The end of text is an additional id after the model's, because each request has its own stop tokens.
    """

    def __init__(self, table: Vocabulary, vocab_size: int) -> None:
        known = list(table.token_bytes or ())[:vocab_size]
        self.tokens = [*known, *[b""] * (vocab_size - len(known)), b"<end>"]
        self.special_token_ids = sorted(i for i in table.special_ids if i < vocab_size)
        self.special_token_ids.append(vocab_size)
        self.eos_token_id = vocab_size
        self.bos_token_id = None
        self._encode = table.encode
        self._bytes_ids = {data: i for i, data in enumerate(known) if len(data) == 1}

    def __call__(self, text: str) -> list[int]:
        """Tokenise text that a grammar forces."""
        token_ids = self._encode(text)
        data = text.encode()
        if b"".join(self.tokens[i] for i in token_ids) == data:
            return token_ids
        # The tokenizer has normalised the characters, which would break the grammar; single bytes never do.
        return [self._bytes_ids[data[i : i + 1]] for i in range(len(data))]


def _reason(message: str) -> str:
    """The compiler's message without positions in a grammar that the client did not write."""
    lines = [line.strip() for line in message.splitlines()]
    first = re.sub(r"^at \d+\(\d+\): |; \w+ in regex .*$", "", lines[0])
    if first.startswith("oneOf"):
        return "oneOf is supported only where branches exclude each other for certain; use anyOf"
    details = [line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")]
    return "; ".join([first.removesuffix(" regex parse error:").removesuffix(":"), *details])


def _has_text(table: Vocabulary, vocab_size: int) -> list[bool]:
    has_text = [bool(data) for data in (table.token_bytes or ())[:vocab_size]]
    has_text += [False] * (vocab_size - len(has_text))
    for token_id in table.special_ids:
        if token_id < vocab_size:
            has_text[token_id] = False
    return has_text
