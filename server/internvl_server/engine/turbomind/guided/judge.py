"""Writes constraints as structural tags of xgrammar and tries, in a separate process, whether they compile.

Compiling takes between a millisecond and minutes, which cannot be foreseen. It is tried with the package
xgrammar and a small vocabulary. TurboMind then compiles the tag with the model's, which takes about 80 times
as long where a grammar has many places at which almost any token may follow.
"""

import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import xgrammar

from internvl_server.concurrency.jobs import serve_jobs
from internvl_server.core import Constraint, JsonSchema
from internvl_server.engine.guided.compiler import Judgement, UnsupportedConstraintError
from internvl_server.engine.guided.serialization import constraint_from_json, constraint_to_json
from internvl_server.engine.turbomind.guided.ebnf import reason_of
from internvl_server.engine.turbomind.guided.tags import TagWriter

__all__ = ["judge"]

_NUM_BYTES = 256
# TurboMind then takes about 25 s at most, on a thread that cannot be stopped. A string of 200 characters
# takes 0.06 s here and 5 s there.
_MAX_COMPILE_S = 0.3


def judge(constraint: Constraint, policy: str) -> Judgement:
    """Write a constraint as a tag that compiles.

    Args:
        constraint: The constraint.
        policy: `refuse` or `check`, as `engine.turbomind.schema_policy`.

    Raises:
        UnsupportedConstraintError: The policy is to refuse, and a keyword would not be enforced.
        ValueError: The constraint is malformed, allows no value, or does not compile.
    """
    writer = TagWriter()
    tag = writer.tag_of(constraint)
    if writer.loosened and policy == "refuse":
        raise UnsupportedConstraintError(
            f"the turbomind engine does not enforce '{min(writer.loosened)}' here "
            "(engine.turbomind.schema_policy)"
        )
    compiler, begin = _compiler(), time.process_time()
    try:
        compiler.compile_structural_tag(tag)
    except RuntimeError as err:  # all that the native compiler raises
        raise ValueError(reason_of(err)) from err
    if time.process_time() - begin > _MAX_COMPILE_S:
        raise ValueError("it would take the turbomind engine too long to compile")
    return Judgement(tag, tuple(sorted(writer.loosened)))


@cache
def _compiler() -> Any:  # noqa: ANN401  (a native object)
    letters = string.ascii_lowercase
    words = [f"{a}{b}{c}" for a in letters for b in letters for c in "ae"][:1000]
    tokens = [bytes([byte]) for byte in range(_NUM_BYTES)]
    tokens += [form.encode() for word in words for form in (word, f" {word}", f'{word}",')]
    vocabulary = xgrammar.TokenizerInfo([*tokens, b"<end>"], stop_token_ids=[len(tokens)])
    return xgrammar.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=False)


def _answer(job: Sequence[Any]) -> Mapping[str, Any]:
    described, policy = job
    try:
        return asdict(judge(constraint_from_json(described), policy))
    except ValueError as err:
        is_unsupported = isinstance(err, UnsupportedConstraintError)
        return {"refusal": str(err), "is_unsupported": is_unsupported}


if __name__ == "__main__":
    serve_jobs(_answer, [constraint_to_json(JsonSchema({"type": "object"})), "check"])
