"""The request body of `/v1/completions`, OpenAI's older endpoint without messages, and its parser."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from internvl_server.core import AnswerParams, SamplingParams
from internvl_server.errors import InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.fields import Extension, FieldTable, Foreign, Needs, known_fields
from internvl_server.protocol.fields.foreign import ANSWER, OPTIONS, token_limit
from internvl_server.protocol.limits import check_length, check_lists
from internvl_server.protocol.parsing import read_object, validate
from internvl_server.protocol.response_format import ResponseFormat, format_constraint
from internvl_server.protocol.sampling import SamplingFields, to_answer_params, to_sampling_params
from internvl_server.protocol.wire import MaxTokens, StreamOptions, check_stream_options
from internvl_server.settings import LimitSettings

__all__ = [
    "COMPLETION_FIELDS",
    "CompletionRequest",
    "ParsedCompletion",
    "RawPrompt",
    "parse_completion_request",
]

RawPrompt: TypeAlias = str | tuple[int, ...]
"""Literal text, or token ids."""

# OpenAI's default of `max_tokens`.
_DEFAULT_MAX_TOKENS = 16


class CompletionRequest(SamplingFields):
    """The implemented fields; ranges are OpenAI's where it has the field."""

    model: str
    """The served name."""
    prompt: str | list[str] | list[int] | list[list[int]]
    """A text, token ids, or a list of either, at most `limits.max_prompts`."""
    response_format: Annotated[
        ResponseFormat | None, Extension(only_in=("completions",)), Needs("response_format")
    ] = None
    """As in chat completions."""
    best_of: int | None = None
    """Must equal `n`."""
    echo: bool | None = None
    """The prompt is returned before the answer; not with `logprobs`."""
    logprobs: Annotated[Annotated[int, Field(ge=0, le=5)] | None, Needs("logprobs")] = None
    """0 to 5 of the most likely tokens at each position, besides the chosen one."""
    max_tokens: MaxTokens | None = None
    """Default 16."""
    n: Annotated[int, Field(ge=1)] | None = None
    """1 to `limits.max_choices` answers to each prompt."""
    stream: bool | None = None
    """Server-sent events."""
    stream_options: StreamOptions | None = None
    """`include_usage`, `continuous_usage_stats`, `include_obfuscation`."""


_CHAT = Foreign(instead="Use the endpoint '/v1/chat/completions'.")

COMPLETION_FIELDS = FieldTable(
    api="completions",
    model=CompletionRequest,
    bookkeeping={"user"},
    refused={"suffix": ("",)},
    foreign={
        **ANSWER,
        **OPTIONS,
        **token_limit("max_tokens", "max_completion_tokens", "max_output_tokens"),
        "image": _CHAT,
        "image_data": _CHAT,
        "images": _CHAT,
        "input": Foreign(instead="Use 'prompt'."),
        "messages": _CHAT,
        "n_cmpl": Foreign("n"),
        "prompt_embeds": Foreign(instead="Use 'prompt'."),
        "system": _CHAT,
        "tools": _CHAT,
        "top_logprobs": Foreign(instead="Use 'logprobs', which is a number here."),
    },
)


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """A valid request: its body and prompts, its parameters, and the JSON paths that were ignored."""

    body: CompletionRequest
    prompts: tuple[RawPrompt, ...]
    sampling: SamplingParams
    answer: AnswerParams
    ignored: tuple[str, ...] = ()


def parse_completion_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False
) -> ParsedCompletion:
    """Parse, validate and convert a request body. CPU-bound: large bodies belong in a thread.

    Args:
        body: UTF-8 JSON.
        limits: How long lists may be.
        ignore_unknown: Ignore unknown fields and list them instead of refusing them.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For a field that is not implemented.
    """
    fields, unknown = known_fields(
        read_object(body), COMPLETION_FIELDS, ignore_unknown=ignore_unknown
    )
    check_lists(fields, limits)
    prompts: tuple[RawPrompt, ...] = ()
    if "prompt" in fields:
        # Validated here: a union's validator would create an error for every element and every branch.
        prompts = _prompts(fields["prompt"], limits.max_prompts)
        fields["prompt"] = ""
    request, inner = validate(CompletionRequest, fields, ignore_unknown=ignore_unknown)
    _check_agreement(request)
    _check_num_answers(len(prompts), request.n or 1, limits.max_prompts)
    return ParsedCompletion(
        request,
        prompts,
        _sampling(request),
        to_answer_params(request, num_choices=request.n or 1),
        unknown + inner,
    )


def _sampling(body: CompletionRequest) -> SamplingParams:
    """Request one extra logprob, so that the chosen token never displaces a more likely one."""
    return to_sampling_params(
        body,
        max_tokens=_DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        num_logprobs=body.logprobs + 1 if body.logprobs else body.logprobs,
        answer_format=format_constraint(body.response_format),
    )


def _prompts(value: Any, max_prompts: int) -> tuple[RawPrompt, ...]:  # noqa: ANN401  (any JSON value)
    """One prompt or several: a text, texts, a list of token ids, or lists of them."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_ids(value)):
        return (_prompt(value, "prompt"),)
    if not isinstance(value, list) or not value:
        raise _wrong_type("prompt")
    check_length(value, "prompt", max_prompts, "limits.max_prompts")
    return tuple(_prompt(entry, f"prompt[{index}]") for index, entry in enumerate(value))


def _prompt(value: Any, path: str) -> RawPrompt:  # noqa: ANN401  (any JSON value)
    if not value and isinstance(value, str | list):
        raise InvalidRequestError(
            f"'{path}' is empty; the model needs at least one token.", param=path
        )
    if isinstance(value, str):
        return value
    if isinstance(value, list) and _is_ids(value):
        return tuple(value)
    raise _wrong_type(path)


def _is_ids(value: list[Any]) -> bool:
    return all(type(entry) is int for entry in value)


def _wrong_type(path: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid value for '{path}': it must be a text, token ids, or a list of either.",
        param=path,
        code="invalid_value",
    )


def _check_num_answers(num_prompts: int, num_choices: int, max_prompts: int) -> None:
    """Limit the answers to several prompts, all of which the engine gets at once."""
    if num_prompts > 1 and num_prompts * num_choices > max_prompts:
        raise InvalidRequestError(
            f"{num_prompts} prompts with {num_choices} answers each; the limit is {max_prompts} answers "
            "(limits.max_prompts).",
            param="n",
        )


def _check_agreement(body: CompletionRequest) -> None:
    check_stream_options(body.stream_options, stream=body.stream)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UnsupportedParameterError(
            "'best_of' is only supported when it equals 'n'. Leave it out.", param="best_of"
        )
    if body.echo and body.logprobs is not None:
        raise UnsupportedParameterError(
            "'echo' is not supported with 'logprobs': log probabilities of the prompt are not computed.",
            param="echo",
        )
