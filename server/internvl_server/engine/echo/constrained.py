"""What the echo engine answers under a constraint: a short text that it allows, the same each time.

Each step takes the cheapest byte that is allowed: closing brackets and quotes come first, opening brackets
last, and a byte costs more each time it was used, so that most repetitions end. This is not a search: a
grammar that never closes by these rules is cut off by the limit of the answer.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from internvl_server.core import (
    Constraint,
    FinishReason,
    GenerateRequest,
    JsonSchema,
    ToolCalls,
)
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.guided.compiler import GrammarCompiler
from internvl_server.engine.guided.matcher import (
    CompiledGrammar,
    GrammarMatcher,
    GrammarVocabulary,
)

__all__ = ["ConstrainedAnswers"]

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_OTHERS = b"0123456789@.:/_" + _LETTERS + b"-+' ,;!?#$%&()*<=>^`|~"
# Outside of text, and within it, where brackets mean nothing.
_STRUCTURE = b'}])",:' + _OTHERS
_TEXT = b'"ABC@.:/-_' + _OTHERS
_FREE_IN_STRUCTURE, _FREE_IN_TEXT = b'}])",:', b'"'
# Where all of these are allowed, almost anything is, so that brackets are text.
_SIGNS_OF_TEXT = b"a~}"
_LAST = b"-\\[{"
_USE = 1 << 10  # the cost of one use, more than any position above
_AVOIDED = 1 << 40


class ConstrainedAnswers:
    """Compiles constraints and makes answers to them.

    Args:
        tokens: The vocabulary; its `token_bytes` are known.
    """

    def __init__(self, tokens: Vocabulary) -> None:
        self._tokens = tokens
        self._vocabulary: GrammarVocabulary
        self._compiler: GrammarCompiler[CompiledGrammar] | None = None
        single = [(i, data[0]) for i, data in enumerate(tokens.token_bytes or ()) if len(data) == 1]
        self._ids, self._bytes = np.array(single, dtype=np.int64).reshape(-1, 2).T

    async def start(self) -> None:
        """Index the vocabulary, which takes a second for a large one."""
        vocab_size = len(self._tokens.token_bytes or ())
        self._vocabulary = await asyncio.to_thread(GrammarVocabulary, self._tokens, vocab_size)
        self._compiler = GrammarCompiler(self._compile)

    def close(self) -> None:
        """Compile nothing more."""
        if self._compiler is not None:
            self._compiler.close()

    async def compile(self, constraint: Constraint) -> CompiledGrammar:
        """Compile a constraint; see `GrammarCompiler.compile`."""
        assert self._compiler is not None, "started"
        return await self._compiler.compile(constraint)

    def answer(
        self, grammar: CompiledGrammar, request: GenerateRequest, banned: frozenset[int], limit: int
    ) -> Iterator[tuple[tuple[int, ...], FinishReason | None]]:
        """The tokens of an answer, one at a time; the last with the reason for the end.

        Args:
            grammar: The request's constraint.
            request: The request.
            banned: Ids to avoid where the constraint allows another.
            limit: Most tokens.

        Raises:
            EngineError: The grammar has exceeded a limit on the states it may need.
        """
        stop_ids = request.stop_token_ids
        end_ids = self._vocabulary.without_text(
            i for i in stop_ids - banned if i < self._vocabulary.vocab_size
        )
        matcher = grammar.start(())
        choice = _Choice(self._bytes, np.isin(self._ids, list(banned | stop_ids)))
        for num_tokens in range(limit):
            is_long = num_tokens >= request.sampling.min_tokens
            if matcher.is_complete or (matcher.is_accepting and is_long):
                yield tuple(end_ids[:1]), "stop"
                return
            token_id = self._next(matcher, choice)
            matcher.advance(token_id)
            is_long = num_tokens + 1 >= request.sampling.min_tokens
            may_end = matcher.is_accepting and is_long and not end_ids
            if matcher.is_complete or may_end or token_id in stop_ids:
                yield (token_id,), "stop"
                return
            yield (token_id,), "length" if num_tokens + 1 == limit else None

    def _next(self, matcher: GrammarMatcher, choice: "_Choice") -> int:
        allowed = ~matcher.forbidden[self._ids]
        if not allowed.any():  # no single byte is a token here
            return int(np.flatnonzero(~matcher.forbidden)[0])
        return int(self._ids[choice.choose(allowed)])

    def _compile(self, constraint: Constraint) -> CompiledGrammar:
        grammar = self._vocabulary.compile(constraint)
        if not isinstance(constraint, ToolCalls):
            return grammar
        # Compiled all the same, so that what is wrong with the other tools is found.
        if constraint.answer is not None:
            return self._vocabulary.compile(JsonSchema(constraint.answer))
        return self._vocabulary.compile(
            replace(constraint, tools=constraint.tools[:1], is_parallel=False)
        )


class _Choice:
    """Chooses the bytes of one answer.

    Args:
        token_bytes: int64, (n,): the bytes to choose from.
        avoided: bool, (n,): those to choose only where no other is allowed.
    """

    def __init__(self, token_bytes: NDArray[np.int64], avoided: NDArray[np.bool_]) -> None:
        self._bytes = token_bytes
        self._used = np.where(avoided, _AVOIDED, 0)
        self._is_quote = token_bytes == ord('"')
        self._signs = [np.flatnonzero(token_bytes == sign) for sign in _SIGNS_OF_TEXT]
        self._in_structure = _costs(_STRUCTURE)[token_bytes]
        self._in_text = _costs(_TEXT)[token_bytes]
        self._was_quoted = False

    def choose(self, allowed: NDArray[np.bool_]) -> int:
        """The place of the cheapest of the allowed bytes, at least one."""
        is_text = all(allowed[sign].any() for sign in self._signs)
        if is_text and self._was_quoted:  # the quote before did not end a string
            self._used[self._is_quote] += _USE
        costs = self._used + (self._in_text if is_text else self._in_structure)
        place = int(np.where(allowed, costs, np.iinfo(np.int64).max).argmin())
        self._was_quoted = is_text and bool(self._is_quote[place])
        if self._bytes[place] not in (_FREE_IN_TEXT if is_text else _FREE_IN_STRUCTURE):
            self._used[place] += _USE
        return place


def _costs(preference: bytes) -> NDArray[np.int64]:
    """int64, (256,): the cost of each byte, before it is used."""
    costs = np.full(256, _USE - 1, dtype=np.int64)
    for position, byte in reversed(list(enumerate(preference))):
        costs[byte] = position
    costs[list(_LAST)] += 1 << 20
    return costs
