"""What the echo engine answers under a constraint: a short text that it allows, the same each time.

Each step takes one of the allowed bytes that were used least, closing brackets and quotes first, so that most
repetitions end. This is not a search: a grammar that never closes by these rules is cut off by `max_tokens`.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np

from internvl_server.core import Constraint, GenerateRequest, JsonSchema, ToolCalls
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.guided.compiler import GrammarCompiler, ProcessJudge
from internvl_server.engine.guided.matcher import (
    JUDGE,
    CompiledGrammar,
    GrammarMatcher,
    GrammarVocabulary,
)

__all__ = ["ConstrainedAnswers"]

_QUOTE = ord('"')
_CLOSING = b'}])",:'
_OTHERS = (
    b"0123456789@.:/_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    b"+' ,;!?#$%&()*<=>^`|~" + bytes(range(32, 256)) + bytes(range(32))
)
_IN_STRUCTURE, _IN_TEXT = _CLOSING + _OTHERS, b'"ABC@.:/_' + _OTHERS
# Used only where nothing else is allowed, because something longer follows.
_LAST = b"-\\[{"
# Where all of these are allowed, almost anything is, so that brackets are text.
_SIGNS_OF_TEXT = b"a~}"


class ConstrainedAnswers:
    """Compiles constraints and makes answers to them.

    Args:
        tokens: The vocabulary; its `token_bytes` are known.
    """

    def __init__(self, tokens: Vocabulary) -> None:
        self._tokens = tokens
        self._token_bytes = tokens.token_bytes or ()
        self._ids = {data[0]: i for i, data in enumerate(self._token_bytes) if len(data) == 1}
        self._vocabulary: GrammarVocabulary
        self._compiler = GrammarCompiler(ProcessJudge(JUDGE), self._compile)

    async def start(self) -> None:
        """Index the vocabulary, which takes a second for a large one."""
        vocab_size = len(self._token_bytes)
        self._vocabulary = await asyncio.to_thread(GrammarVocabulary, self._tokens, vocab_size)

    async def close(self) -> None:
        """Compile nothing more."""
        await self._compiler.close()

    async def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile a constraint; see `Engine.compile`."""
        return (await self._compiler.compile(constraint)).loosened

    async def answer(
        self, constraint: Constraint, request: GenerateRequest, banned: frozenset[int]
    ) -> Iterator[int]:
        """Compile a constraint, as `GrammarCompiler.compile` does, and return the tokens of an answer.

        Computing a token may take milliseconds. It raises `EngineError` if the grammar needs too many states.
        Banned ids and stop tokens with text are used only where the constraint allows no other token.
        """
        compiled = await self._compiler.compile(constraint)
        if isinstance(constraint, ToolCalls):
            compiled = await self._compiler.compile(_shortest(constraint))
        return self._follow(compiled.grammar.start(()), request, banned)

    def _follow(
        self, matcher: GrammarMatcher, request: GenerateRequest, banned: frozenset[int]
    ) -> Iterator[int]:
        stop_ids = request.stop_token_ids
        end_ids = self._vocabulary.without_text(
            i for i in stop_ids - banned if i < self._vocabulary.vocab_size
        )
        avoided = {byte for byte, i in self._ids.items() if i in banned | stop_ids}
        uses = Counter[int]()
        for num_tokens in count():
            if matcher.is_complete:
                return
            if matcher.is_accepting and num_tokens >= request.sampling.min_tokens:
                yield from end_ids[:1]
                return
            allowed = {byte for byte, i in self._ids.items() if not matcher.forbidden[i]}
            if allowed:
                token_id = self._ids[_choose(allowed, avoided, uses)]
            else:  # no single byte is a token here
                token_id = int(np.flatnonzero(~matcher.forbidden)[0])
            matcher.advance(token_id)
            yield token_id
            if token_id in stop_ids:
                return

    def _compile(self, grammar: str) -> CompiledGrammar:
        return self._vocabulary.compile(grammar)


def _shortest(calls: ToolCalls) -> Constraint:
    """The answer uses one tool or none; compiling all of them has found the errors of the others."""
    if calls.answer is not None:
        return JsonSchema(calls.answer)
    return replace(calls, tools=calls.tools[:1], is_parallel=False)


def _choose(allowed: set[int], avoided: set[int], uses: Counter[int]) -> int:
    """One of the allowed bytes; updates the number of uses of each."""
    is_text = allowed.issuperset(_SIGNS_OF_TEXT)
    if not is_text:  # the quotes so far have ended their strings and were no repetition
        del uses[_QUOTE]
    candidates = (b for b in (_IN_TEXT if is_text else _IN_STRUCTURE) if b in allowed)
    byte = min(candidates, key=lambda b: (b in avoided, b in _LAST, uses[b]))
    uses[byte] += is_text or byte not in _CLOSING
    return byte
