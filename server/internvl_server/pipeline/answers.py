"""What turns the tokens of a request's choices into text: one `AnswerText` each."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from internvl_server.core import AnswerParams, GenerateRequest, ToolCalls
from internvl_server.output.detokenizer import DetokenizerFactory
from internvl_server.output.logprobs import LogprobWriter
from internvl_server.output.stop import StopMatcher, StopStrings
from internvl_server.output.text import AnswerRules, AnswerText
from internvl_server.output.tool_calls import ToolCallParser

__all__ = ["PipelineVocabulary", "text_factory"]

# Automata of stop strings up to this length are made in well under a millisecond: not worth a thread.
_MAX_CHARS_ON_LOOP = 8192


@dataclass(frozen=True, slots=True)
class PipelineVocabulary:
    """What the pipeline knows of the model's tokens.

    `bytes_of` gives the UTF-8 bytes of an id, special tokens' names included.
    """

    size: int
    bytes_of: Callable[[int], bytes]
    new_detokenizer: DetokenizerFactory


async def text_factory(
    request: GenerateRequest, answer: AnswerParams, vocabulary: PipelineVocabulary
) -> Callable[[], AnswerText]:
    """Makes a choice's `AnswerText`, called once for each. Long stop strings are prepared in a thread."""
    stops = request.sampling.stop
    is_short = sum(map(len, stops)) <= _MAX_CHARS_ON_LOOP
    prepared = StopStrings(stops) if is_short else await asyncio.to_thread(StopStrings, stops)
    rules = _rules(request, vocabulary, show_end=answer.include_stop)
    return lambda: AnswerText(
        rules,
        vocabulary.new_detokenizer(answer.skip_special_tokens),
        StopMatcher(prepared, is_shown=answer.include_stop),
        _call_parser(request, answer),
    )


def _rules(
    request: GenerateRequest, vocabulary: PipelineVocabulary, *, show_end: bool
) -> AnswerRules:
    num_top = request.sampling.num_logprobs
    return AnswerRules(
        end_ids=request.stop_token_ids,
        show_end=show_end,
        min_tokens=request.sampling.min_tokens,
        to_logprobs=None if num_top is None else LogprobWriter(vocabulary.bytes_of, num_top),
    )


def _call_parser(request: GenerateRequest, answer: AnswerParams) -> ToolCallParser | None:
    if answer.tool_choice.mode == "none" or not answer.tool_names:
        return None
    constraint = request.sampling.constraint
    return ToolCallParser(
        answer.tool_choice,
        answer.tool_names,
        lambda: f"call_{secrets.token_hex(12)}",
        is_guided=isinstance(constraint, ToolCalls),
    )
