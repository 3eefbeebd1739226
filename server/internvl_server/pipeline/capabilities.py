"""What a request asks of an engine, against what the engine says it can do."""

from internvl_server.core import AnswerParams, Conversation, SamplingParams
from internvl_server.engine.base import Capability, EngineInfo
from internvl_server.errors import Field, UnsupportedParameterError

__all__ = ["check_capabilities"]


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
    asked = {
        Capability.TOP_K: sampling.top_k > 0,
        Capability.MIN_P: sampling.min_p > 0,
        Capability.REPETITION_PENALTY: sampling.repetition_penalty != 1,
        Capability.SEED: sampling.seed is not None,
        Capability.IMAGES: conversation is not None and bool(conversation.media_parts),
        Capability.LOGPROBS: sampling.num_logprobs is not None,
        Capability.GUIDED_DECODING: sampling.constraint is not None,
        Capability.LOGIT_BIAS: bool(sampling.logit_bias),
        Capability.PRESENCE_PENALTY: sampling.presence_penalty != 0,
        Capability.FREQUENCY_PENALTY: sampling.frequency_penalty != 0,
        Capability.MIN_TOKENS: sampling.min_tokens > 0,
    }
    for capability, is_asked in asked.items():
        if is_asked and capability not in info.capabilities:
            param = _param(capability, sampling)
            raise UnsupportedParameterError(
                param if isinstance(param, Field) else f"'{param}'",
                f" is not supported by the {info.backend} engine. Leave it out.",
                param=param,
            )


def _param(capability: Capability, sampling: SamplingParams) -> str | Field:
    """A constraint comes from one of several fields and knows which."""
    if capability is Capability.LOGPROBS:
        return Field.LOGPROBS
    if capability is Capability.GUIDED_DECODING and sampling.constraint is not None:
        return sampling.constraint.param
    return capability.value
