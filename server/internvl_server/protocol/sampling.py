"""The sampling fields that every dialect has: declared once, converted once."""

import re
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any

from pydantic import Field

from internvl_server.core import (
    AnswerParams,
    Constraint,
    SamplingParams,
    ToolCalls,
    ToolChoice,
)
from internvl_server.core.conversation import NO_TOOLS
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.constraints import combine
from internvl_server.protocol.fields import Extension, Needs
from internvl_server.protocol.response_format import StructuredOutputs, structured_constraint
from internvl_server.protocol.thinking import ReasoningFields
from internvl_server.protocol.wire import TextOr, Wire
from internvl_server.settings import SamplingDefaults

__all__ = [
    "MAX_LOGPROBS",
    "SamplingFields",
    "to_answer_params",
    "to_sampling_params",
    "values_left_out",
]

MAX_LOGPROBS = 20

# One text for each id, so that no bias replaces another.
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,17}")
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_EXTENSION = Extension()
# OpenAI has it in chat and in completions; responses and Anthropic's messages do not.
_CHAT_FIELD = Extension(only_in=("messages", "responses"))


class SamplingFields(Wire):
    """How to choose tokens and where to stop. Ranges are OpenAI's where it has the field.

    A field that has the same name and values as an attribute of `SamplingParams` is passed on unconverted.
    """

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 to 2, default 1; 0 is greedy."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 to 1."""
    frequency_penalty: Annotated[
        Annotated[float, Field(ge=-2, le=2)] | None,
        _CHAT_FIELD,
        Needs("frequency_penalty"),
    ] = None
    """-2 to 2."""
    presence_penalty: Annotated[
        Annotated[float, Field(ge=-2, le=2)] | None,
        _CHAT_FIELD,
        Needs("presence_penalty"),
    ] = None
    """-2 to 2."""
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]] | None,
        _CHAT_FIELD,
        Needs("logit_bias"),
    ] = None
    """Token id → -100 to 100, at most 1024 of them."""
    seed: Annotated[
        Annotated[int, Field(ge=_INT64_MIN, le=_INT64_MAX)] | None,
        _CHAT_FIELD,
        Needs("seed"),
    ] = None
    """A signed 64-bit integer; choice i uses `seed + i`."""
    stop: Annotated[TextOr[list[str]] | None, _CHAT_FIELD] = None
    """At most 4 strings of at most 8192 characters, matched on text and never shown in part."""
    top_k: Annotated[
        Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None, _EXTENSION, Needs("top_k")
    ] = None
    """0 or -1: no limit."""
    min_p: Annotated[Annotated[float, Field(ge=0, le=1)] | None, _EXTENSION, Needs("min_p")] = None
    """0 to 1."""
    repetition_penalty: Annotated[
        Annotated[float, Field(gt=0, le=10)] | None, _EXTENSION, Needs("repetition_penalty")
    ] = None
    """Above 0, at most 10; 1 has no effect."""
    min_tokens: Annotated[
        Annotated[int, Field(ge=0, le=_INT64_MAX)] | None, _EXTENSION, Needs("min_tokens")
    ] = None
    """No stop token and no stop string ends the answer before this many tokens."""
    stop_token_ids: Annotated[list[int] | None, _EXTENSION] = None
    """Further tokens that end an answer, at most 1024."""
    ignore_eos: Annotated[bool | None, _EXTENSION] = None
    """The model's own stop token does not end the answer."""
    skip_special_tokens: Annotated[bool | None, _EXTENSION] = None
    """`false`: special tokens are shown. `true`: also `<ref>`, `<box>` and `<quad>` are hidden."""
    include_stop_str_in_output: Annotated[bool | None, _EXTENSION] = None
    """The stop string or stop token that ended the answer is shown."""
    structured_outputs: Annotated[
        StructuredOutputs | None, _EXTENSION, Needs("response_format")
    ] = None
    """One of `json`, `json_object`, `regex`, `choice`, `grammar` (GBNF)."""


# Fields that are passed on as they are.
_UNCONVERTED = sorted(
    SamplingFields.model_fields.keys()
    & {field.name for field in dataclass_fields(SamplingParams)} - {"logit_bias", "stop", "top_k"}
)


def to_sampling_params(
    fields: SamplingFields,
    *,
    max_tokens: int | None,
    num_logprobs: int | None = None,
    answer_format: Constraint | None = None,
    calls: ToolCalls | None = None,
) -> SamplingParams:
    """The sampling parameters of a request. Fields that are left out get OpenAI's defaults.

    Args:
        fields: The fields that all dialects have.
        max_tokens: The limit of the answer; each dialect has its own field for it.
        num_logprobs: As in `SamplingParams`; each dialect has its own field for it.
        answer_format: What the answer must be; each dialect has its own field for it.
        calls: Constrains the answer's calls of tools.

    Raises:
        InvalidRequestError: Fields contradict each other, or one cannot be used.
    """
    unconverted = {name: getattr(fields, name) for name in _UNCONVERTED}
    given = {name: value for name, value in unconverted.items() if value is not None}
    if fields.min_tokens and max_tokens is not None and fields.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"'min_tokens' is {fields.min_tokens}, which is more than the limit of {max_tokens} tokens.",
            param="min_tokens",
        )
    if fields.structured_outputs is not None:
        answer_format = _structured(fields.structured_outputs, answer_format)
    return SamplingParams(
        **given,
        max_tokens=max_tokens,
        top_k=max(fields.top_k or 0, 0),
        stop=() if fields.stop is None else _stops(fields.stop),
        logit_bias=_logit_bias(fields.logit_bias) if fields.logit_bias else (),
        num_logprobs=num_logprobs,
        constraint=combine(calls, answer_format),
    )


def values_left_out(fields: SamplingFields, defaults: SamplingDefaults) -> dict[str, Any]:
    """The server's values for the fields that a request leaves out, by the name of the parameter."""
    return {name: value for name, value in defaults if getattr(fields, name) is None}


def to_answer_params(
    fields: SamplingFields,
    *,
    num_choices: int = 1,
    tool_choice: ToolChoice = NO_TOOLS,
    tool_names: tuple[str, ...] = (),
    reasoning: ReasoningFields | None = None,
) -> AnswerParams:
    """How many answers there are, where they end and which parts of them are visible.

    Args:
        fields: The fields that all dialects have.
        num_choices: How many answers there are.
        tool_choice: Which tools the answers may call.
        tool_names: The names of all tools in the prompt.
        reasoning: How reasoning is returned; None where there is none.
    """
    return AnswerParams(
        num_choices=num_choices,
        stop_token_ids=frozenset(fields.stop_token_ids or ()),
        ignore_eos=bool(fields.ignore_eos),
        skip_special_tokens=fields.skip_special_tokens,
        include_stop=bool(fields.include_stop_str_in_output),
        tool_choice=tool_choice,
        tool_names=tool_names,
        shows_reasoning=reasoning is None or reasoning.shows_reasoning,
        splits_reasoning=reasoning is None or reasoning.separate_reasoning is not False,
    )


def _structured(outputs: StructuredOutputs, answer_format: Constraint | None) -> Constraint | None:
    constraint = structured_constraint(outputs)
    if constraint is None:
        return answer_format
    if answer_format is not None:
        raise InvalidRequestError(
            f"'{constraint.param}' and '{answer_format.param}' both say what the answer must be. Give one "
            "of them.",
            param=constraint.param,
        )
    return constraint


def _stops(stop: str | list[str]) -> tuple[str, ...]:
    """The stop strings, without the empty ones that programs send for none."""
    return tuple(filter(None, [stop] if isinstance(stop, str) else stop))


def _logit_bias(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for key in biases:
        if not _TOKEN_ID.fullmatch(key):
            raise InvalidRequestError(
                f"'logit_bias' has the key '{key[:32]}'; keys must be token ids.",
                param="logit_bias",
            )
    return tuple((int(key), bias) for key, bias in biases.items())
