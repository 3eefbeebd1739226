"""What the echo engine answers where it is held to a format: a short text the format allows, always the same.

Of an enum, of choices and of tools it is the first (`echo_narrowing.py`), of all else what
`echo_answer.py` finds short.
"""

import asyncio
import contextlib

from internvl_server.core import Constraint, GenerateRequest
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.echo.answer import ShortAnswer, TokenCosts
from internvl_server.engine.echo.narrowing import narrowed
from internvl_server.engine.guided.compiler import GrammarCompiler
from internvl_server.engine.guided.matcher import CompiledGrammar, GrammarVocabulary

__all__ = ["EchoGuides"]


class EchoGuides:
    """Compiles guides, and begins answers to them.

    Args:
        tokens: The text of the ids, with `token_bytes`.
    """

    def __init__(self, tokens: Vocabulary) -> None:
        self._tokens = tokens
        self._vocabulary: GrammarVocabulary
        self._costs: TokenCosts
        self._compiler: GrammarCompiler[CompiledGrammar] | None = None

    async def start(self) -> None:
        """Read the vocabulary; takes a second for a large one."""
        token_bytes = self._tokens.token_bytes
        assert token_bytes is not None, "the vocabulary is byte-level"
        size = len(token_bytes)
        self._vocabulary = await asyncio.to_thread(GrammarVocabulary, self._tokens, size)
        self._costs = await asyncio.to_thread(TokenCosts, token_bytes)
        self._compiler = GrammarCompiler(self._compile)

    def close(self) -> None:
        """Compile nothing more."""
        if self._compiler is not None:
            self._compiler.close()

    async def compile(self, guide: Constraint) -> CompiledGrammar:
        """Make a guide ready; see `GrammarCompiler.compile`."""
        assert self._compiler is not None, "started"
        return await self._compiler.compile(guide)

    def begin(
        self, compiled: CompiledGrammar, request: GenerateRequest, banned: frozenset[int]
    ) -> ShortAnswer:
        """The answer to a request; `banned` ids are in it only where the guide allows no other."""
        known = range(self._vocabulary.vocab_size)
        stop_ids = request.stop_token_ids.intersection(known)
        end_ids = self._vocabulary.textless(stop_ids - banned)
        return ShortAnswer(
            compiled.start(()),
            self._costs,
            banned=banned.intersection(known),
            stop_ids=stop_ids,
            end_id=end_ids[0] if end_ids else None,
            min_tokens=request.sampling.min_tokens,
        )

    def _compile(self, guide: Constraint) -> CompiledGrammar:
        compiled = self._vocabulary.compile(guide)
        smaller = narrowed(guide)
        if smaller != guide:
            # It may allow nothing, as when the first value of an enum has the wrong type.
            with contextlib.suppress(ValueError):
                return self._vocabulary.compile(smaller)
        return compiled
