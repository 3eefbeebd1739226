"""Wire to core: how to choose tokens, and what of the answer is shown."""

from internvl_server.core import AnswerParams, Constraint, SamplingParams
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.request import ChatCompletionRequest
from internvl_server.protocol.constraints import combine, tool_call_constraint
from internvl_server.protocol.response_format import format_constraint, structured_constraint
from internvl_server.protocol.tools import to_tool_choice, to_tools

__all__ = ["to_answer_params", "to_sampling_params"]


def to_sampling_params(body: ChatCompletionRequest) -> SamplingParams:
    """The sampling fields, with OpenAI's defaults for those left out.

    Raises:
        InvalidRequestError: Fields contradict each other, or one is not usable.
    """
    return SamplingParams(
        max_tokens=_max_tokens(body),
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(body.top_k or 0, 0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        seed=body.seed,
        stop=_stops(body),
        num_logprobs=_num_logprobs(body),
        constraint=_constraint(body),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        logit_bias=_logit_bias(body),
        min_tokens=_min_tokens(body),
    )


def to_answer_params(body: ChatCompletionRequest) -> AnswerParams:
    """How many answers, where they end and what of them is shown.

    Raises:
        InvalidRequestError: Fields contradict each other.
    """
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    tools = to_tools(body.tools)
    return AnswerParams(
        num_choices=body.n or 1,
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        skip_special_tokens=body.skip_special_tokens is not False,
        include_stop=bool(body.include_stop_str_in_output),
        tool_choice=to_tool_choice(body.tool_choice, body.parallel_tool_calls, tools),
        tool_names=tuple(tool.name for tool in tools),
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _max_tokens(body: ChatCompletionRequest) -> int | None:
    """The newer name wins; both with different values contradict each other."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError(
            "'max_tokens' and 'max_completion_tokens' differ. Give one of them.", param="max_tokens"
        )
    return old if new is None else new


def _min_tokens(body: ChatCompletionRequest) -> int:
    least, most = body.min_tokens or 0, _max_tokens(body)
    if most is not None and least > most:
        raise InvalidRequestError(
            f"'min_tokens' is {least} and more than the limit of {most} tokens.", param="min_tokens"
        )
    return least


def _stops(body: ChatCompletionRequest) -> tuple[str, ...]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stops):
        raise InvalidRequestError("'stop' strings must not be empty.", param="stop")
    return tuple(stops)


def _num_logprobs(body: ChatCompletionRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
        )
    return (body.top_logprobs or 0) if body.logprobs else None


def _logit_bias(body: ChatCompletionRequest) -> tuple[tuple[int, float], ...]:
    pairs: list[tuple[int, float]] = []
    for key, bias in (body.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit() and len(key) < len(str(2**63))):
            raise InvalidRequestError(
                f"'logit_bias' has the key '{key[:32]}'; keys must be token ids.",
                param="logit_bias",
            )
        pairs.append((int(key), bias))
    return tuple(pairs)


def _constraint(body: ChatCompletionRequest) -> Constraint | None:
    """What the answer must be; two formats at once contradict each other."""
    tools = to_tools(body.tools)
    choice = to_tool_choice(body.tool_choice, body.parallel_tool_calls, tools)
    found = (
        format_constraint(body.response_format),
        structured_constraint(body.structured_outputs),
    )
    formats = [constraint for constraint in found if constraint is not None]
    if len(formats) > 1:
        raise InvalidRequestError(
            f"'{formats[1].param}' and '{formats[0].param}' both say what the answer must be. "
            "Give one of them.",
            param=formats[1].param,
        )
    return combine(tool_call_constraint(tools, choice), formats[0] if formats else None)
