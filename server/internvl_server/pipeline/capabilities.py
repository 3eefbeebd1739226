"""Checks that the engine can do what a request asks of it."""

from collections.abc import Iterator
from dataclasses import fields

from internvl_server.core import AnswerParams, Conversation, SamplingParams
from internvl_server.engine.base import Capability, EngineInfo
from internvl_server.errors import Field, UnsupportedParameterError

__all__ = ["check_capabilities"]

# Capabilities that are named after a sampling parameter are needed for any value but its default.
_OPTIONAL = {
    field.name: field.default
    for field in fields(SamplingParams)
    if field.name in Capability._value2member_map_
}


def check_capabilities(
    info: EngineInfo,
    sampling: SamplingParams,
    answer: AnswerParams,
    conversation: Conversation | None,
) -> None:
    """Refuse what the engine cannot do, before anything is computed.

    Raises:
        UnsupportedParameterError: Names the request field.
    """
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
