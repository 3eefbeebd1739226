"""Writes constraints as grammars of llguidance and tries, in a separate process, whether they compile.

Compiling takes between a millisecond and minutes, which cannot be foreseen. It is tried with a vocabulary of
single bytes; the engine then compiles the grammar with the model's vocabulary.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from internvl_server.concurrency.jobs import serve_jobs
from internvl_server.core import Constraint, JsonSchema, ToolCalls
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.guided.compiler import Judgement
from internvl_server.engine.guided.grammars import grammar_of
from internvl_server.engine.guided.matcher import GrammarVocabulary
from internvl_server.engine.guided.schemas import tidied
from internvl_server.engine.guided.serialization import constraint_from_json, constraint_to_json

__all__ = ["judge"]

_NUM_BYTES = 256
_KEYWORDS = re.compile(r"Unimplemented keys: (\[.*\])")
# How llguidance names keywords in its other messages.
_MESSAGES = {
    "oneOf": ("oneOf",),
    "min/maxProperties": ("minProperties", "maxProperties"),
}


def judge(constraint: Constraint) -> Judgement:
    """Write a constraint as the strictest grammar that compiles.

    Raises:
        ValueError: It is malformed, allows no text, or its grammar does not compile.
    """
    loosened: set[str] = set()
    tidy = _tidied(constraint, loosened)
    try:
        grammar = grammar_of(tidy)
        _vocabulary().compile(grammar)
    except ValueError:
        if not isinstance(constraint, JsonSchema | ToolCalls):
            raise
        grammar = grammar_of(tidy, is_lenient=True)
        loosened |= _keywords(_vocabulary().compile(grammar).warnings)
    return Judgement(grammar, tuple(sorted(loosened)))


def _tidied(constraint: Constraint, loosened: set[str]) -> Constraint:
    if isinstance(constraint, JsonSchema):
        return replace(constraint, schema=tidied(constraint.schema, loosened))
    if isinstance(constraint, ToolCalls):
        tools = tuple(
            replace(tool, parameters=tidied(tool.parameters, loosened)) for tool in constraint.tools
        )
        answer = None if constraint.answer is None else tidied(constraint.answer, loosened)
        return replace(constraint, tools=tools, answer=answer)
    return constraint


def _keywords(warnings: Iterable[str]) -> set[str]:
    """The keywords that llguidance's warnings are about. An unknown format is only an annotation."""
    keywords: set[str] = set()
    for warning in warnings:
        if found := _KEYWORDS.match(warning):
            keywords.update(json.loads(found[1]))
        for saying, names in _MESSAGES.items():
            if warning.startswith(saying):
                keywords.update(names)
    return keywords


@cache
def _vocabulary() -> GrammarVocabulary:
    table = Vocabulary(
        token_bytes=[bytes([byte]) for byte in range(_NUM_BYTES)],
        special_ids=frozenset(),
        content_ids=frozenset(),
        encode=lambda text: list(text.encode()),
        decode=lambda token_ids, **_: bytes(token_ids).decode(errors="replace"),
        size=_NUM_BYTES,
    )
    return GrammarVocabulary(table, _NUM_BYTES)


def _answer(job: Sequence[Any]) -> Mapping[str, Any]:
    try:
        return asdict(judge(constraint_from_json(job[0])))
    except ValueError as err:
        return {"refusal": str(err)}


if __name__ == "__main__":
    serve_jobs(_answer, [constraint_to_json(JsonSchema({"type": "object"}))])
