"""What turns the tokens of a request's choices into text: one `AnswerText` each."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from internvl_server.core import AnswerParams, GenerateRequest, ToolCalls
from internvl_server.output.detokenizer import DetokenizerFactory
from internvl_server.output.logprobs import LogprobWriter
from internvl_server.output.stop import StopMatcher
from internvl_server.output.text import AnswerRules, AnswerText
from internvl_server.output.tool_calls import ToolCallParser

__all__ = ["PipelineVocabulary", "text_factory"]


@dataclass(frozen=True, slots=True)
class PipelineVocabulary:
    """What the pipeline knows of the model's tokens.

    `bytes_of` gives the UTF-8 bytes of an id, special tokens' names included.
    """

    size: int
    bytes_of: Callable[[int], bytes]
    new_detokenizer: DetokenizerFactory


def text_factory(
    request: GenerateRequest, answer: AnswerParams, vocabulary: PipelineVocabulary
) -> Callable[[], AnswerText]:
    """Makes a choice's `AnswerText`, called once for each."""
    rules = _rules(request, vocabulary, show_end=answer.include_stop)
    return lambda: AnswerText(
        rules,
        vocabulary.new_detokenizer(answer.skip_special_tokens),
        StopMatcher(request.sampling.stop, is_shown=answer.include_stop),
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
