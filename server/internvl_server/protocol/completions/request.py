"""The request body of `/v1/completions`, OpenAI's older endpoint without messages, and its parser."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from internvl_server.core import AnswerParams, SamplingParams
from internvl_server.errors import InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.chat.messages import UserMessage
from internvl_server.protocol.chat.request import ChatCompletionRequest, StreamOptions
from internvl_server.protocol.fields import FieldTable, known_fields
from internvl_server.protocol.limits import check_counts
from internvl_server.protocol.parsing import read_object, validate
from internvl_server.protocol.response_format import StructuredOutputs
from internvl_server.protocol.sampling import to_answer_params, to_sampling_params
from internvl_server.protocol.wire import Wire
from internvl_server.settings import LimitSettings

__all__ = [
    "COMPLETION_FIELDS",
    "CompletionRequest",
    "ParsedCompletion",
    "RawPrompt",
    "parse_completion_request",
    "to_completion_params",
]

# Literal text, or token ids.
RawPrompt = str | tuple[int, ...]

# OpenAI's, where the request names none.
_DEFAULT_MAX_TOKENS = 16
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

# Members a chat request has under the same name and with the same meaning.
_AS_IN_CHAT = frozenset(
    {
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_options",
        "structured_outputs",
        "temperature",
        "top_k",
        "top_p",
    }
)

COMPLETION_FIELDS = FieldTable(
    kept=_AS_IN_CHAT | {"best_of", "echo", "logprobs", "max_tokens", "model", "prompt"},
    bookkeeping={"user"},
    refused={"suffix": ("",)},
)


class CompletionRequest(Wire):
    """The implemented fields; ranges are OpenAI's where it has the field."""

    model: str
    prompt: str | list[str] | list[int] | list[list[int]]
    best_of: int | None = None
    echo: bool | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_INT64_MAX)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=_INT64_MIN, le=_INT64_MAX)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    # Extensions.
    top_k: Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_INT64_MAX)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    structured_outputs: StructuredOutputs | None = None


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """A valid request, its prompts, and the JSON paths of what was ignored in it."""

    body: CompletionRequest
    prompts: tuple[RawPrompt, ...]
    ignored: tuple[str, ...] = ()


def parse_completion_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False
) -> ParsedCompletion:
    """Read and validate a request body. CPU-bound: call it off the event loop for large ones.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For a field that is not implemented.
    """
    fields, unknown = known_fields(
        read_object(body), ignore_unknown=ignore_unknown, table=COMPLETION_FIELDS
    )
    check_counts(fields, limits)
    prompts: tuple[RawPrompt, ...] = ()
    if "prompt" in fields:
        # Judged here: a union's validator would make an error for every element and every branch.
        prompts = _prompts(fields["prompt"], limits.max_prompts)
        fields["prompt"] = ""
    request, inner = validate(CompletionRequest, fields, ignore_unknown=ignore_unknown)
    _check_agreement(request)
    _check_num_answers(len(prompts), request.n or 1, limits.max_prompts)
    return ParsedCompletion(request, prompts, unknown + inner)


def to_completion_params(body: CompletionRequest) -> tuple[SamplingParams, AnswerParams]:
    """How to choose tokens, and what is shown; the fields mean what they mean in a chat.

    One logarithm more is asked for than the request does: the chosen token then takes no likelier one's
    place (`LogprobWriter`), and there may be one entry more, as with OpenAI.
    """
    shared = {name: getattr(body, name) for name in _AS_IN_CHAT}
    wants_logprobs = body.logprobs is not None
    chat = ChatCompletionRequest(
        model=body.model,
        messages=[UserMessage(role="user", content="")],
        max_tokens=_DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        logprobs=wants_logprobs,
        top_logprobs=body.logprobs + 1 if body.logprobs else None,
        **shared,
    )
    return to_sampling_params(chat), to_answer_params(chat)


def _prompts(value: Any, max_prompts: int) -> tuple[RawPrompt, ...]:  # noqa: ANN401  (any JSON value)
    """One prompt or several: a text, texts, a list of token ids, or lists of them."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_ids(value)):
        return (_prompt(value, "prompt"),)
    if not isinstance(value, list) or not value:
        raise _wrong("prompt")
    if len(value) > max_prompts:
        raise InvalidRequestError(
            f"'prompt' has {len(value)} entries; the limit is {max_prompts} (limits.max_prompts).",
            param="prompt",
        )
    return tuple(_prompt(entry, f"prompt[{index}]") for index, entry in enumerate(value))


def _prompt(value: Any, path: str) -> RawPrompt:  # noqa: ANN401  (any JSON value)
    if not value and isinstance(value, str | list):
        raise InvalidRequestError(
            f"'{path}' is empty; the model needs a token to begin with.", param=path
        )
    if isinstance(value, str):
        return value
    if isinstance(value, list) and _is_ids(value):
        return tuple(value)
    raise _wrong(path)


def _is_ids(value: list[Any]) -> bool:
    return all(type(entry) is int for entry in value)


def _wrong(path: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid value for '{path}': it must be a text, token ids, or a list of either.",
        param=path,
        code="invalid_value",
    )


def _check_num_answers(num_prompts: int, num_choices: int, max_prompts: int) -> None:
    """All are given to the engine at once, ahead of the requests of others."""
    if num_prompts > 1 and num_prompts * num_choices > max_prompts:
        raise InvalidRequestError(
            f"{num_prompts} prompts with {num_choices} answers each; the limit is {max_prompts} answers "
            "(limits.max_prompts).",
            param="n",
        )


def _check_agreement(body: CompletionRequest) -> None:
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UnsupportedParameterError(
            "'best_of' is only supported when it equals 'n'. Leave it out.", param="best_of"
        )
    if body.echo and body.logprobs is not None:
        raise UnsupportedParameterError(
            "'echo' is not supported with 'logprobs': those of the prompt are not computed.",
            param="echo",
        )
