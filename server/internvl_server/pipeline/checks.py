"""Checks what a request asks of an engine against what the engine supports."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

from internvl_server.core import AnswerParams, Conversation, SamplingParams, ToolCalls
from internvl_server.engine.base import Capability, EngineInfo
from internvl_server.errors import Field, InvalidRequestError, UnsupportedParameterError

__all__ = ["resolve_sampling"]

# Capabilities that are named after a sampling parameter are needed for any value but its default.
_NAMES = frozenset(capability.value for capability in Capability)
_OPTIONAL = {field.name: field.default for field in fields(SamplingParams) if field.name in _NAMES}


def resolve_sampling(
    info: EngineInfo,
    vocab_size: int,
    sampling: SamplingParams,
    answer: AnswerParams,
    conversation: Conversation | None,
) -> tuple[SamplingParams, tuple[str, ...]]:
    """Refuse what the engine cannot do, before anything is computed.

    Returns:
        The parameters, without a constraint that is only a hint where the engine cannot follow it, and
        sentences about what the engine does otherwise than the request says.

    Raises:
        InvalidRequestError: Names the request field.
    """
    _check_ids("logit_bias", (token_id for token_id, _ in sampling.logit_bias), vocab_size)
    _check_ids("stop_token_ids", answer.stop_token_ids, vocab_size)
    can_guide = Capability.GUIDED_TOOL_CALLS in info.capabilities
    constraint = sampling.constraint
    if isinstance(constraint, ToolCalls) and constraint.is_hint and not can_guide:
        sampling = replace(sampling, constraint=None)
    left_out: dict[str, Any] = {
        name: default
        for name, default in _OPTIONAL.items()
        if name in info.ignored and getattr(sampling, name) != default
    }
    if left_out:
        sampling = replace(sampling, **left_out)
    _check_capabilities(info, sampling, answer, conversation)
    return sampling, tuple(
        f"'{name}' has no effect: the {info.backend} engine does not support it."
        for name in left_out
    )


def _check_ids(param: str, token_ids: Iterable[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"'{param}' names the token {token_id}; this model's ids end at {vocab_size - 1}.",
                param=param,
            )


def _check_capabilities(
    info: EngineInfo,
    sampling: SamplingParams,
    answer: AnswerParams,
    conversation: Conversation | None,
) -> None:
    if (
        answer.tool_choice.mode == "required"
        and Capability.GUIDED_DECODING not in info.capabilities
    ):
        raise UnsupportedParameterError(
            f"The {info.backend} engine cannot be forced to call a tool. Set ",
            Field.TOOL_CHOICE,
            " to 'auto'.",
            param=Field.TOOL_CHOICE,
        )
    for capability, param in _needed(sampling, conversation):
        if capability not in info.capabilities:
            raise UnsupportedParameterError(
                param if isinstance(param, Field) else f"'{param}'",
                f" is not supported by the {info.backend} engine. Leave it out.",
                param=param,
            )


def _needed(
    sampling: SamplingParams, conversation: Conversation | None
) -> Iterator[tuple[Capability, str | Field]]:
    """The capabilities a request needs, each with the field that needs it."""
    for name, default in _OPTIONAL.items():
        if getattr(sampling, name) != default:
            yield Capability(name), name
    if sampling.num_logprobs is not None:
        yield Capability.LOGPROBS, Field.LOGPROBS
    if sampling.constraint is not None:
        yield Capability.GUIDED_DECODING, sampling.constraint.param
    if conversation is not None and conversation.media_parts:
        yield Capability.IMAGES, Capability.IMAGES.value
