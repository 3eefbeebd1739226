"""Wire to core: the sampling fields to `SamplingParams`."""

from server.core import SamplingParams
from server.errors import InvalidRequestError
from server.protocol.chat import ChatCompletionRequest

__all__ = ["to_sampling_params"]


def to_sampling_params(body: ChatCompletionRequest) -> SamplingParams:
    """The sampling fields, with OpenAI's defaults for those left out.

    Raises:
        InvalidRequestError: Fields contradict each other, or `stop` is not usable.
    """
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    top_k = body.top_k or 0
    return SamplingParams(
        max_tokens=_max_tokens(body),
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(top_k, 0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        seed=body.seed,
        stop=_stops(body),
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


def _stops(body: ChatCompletionRequest) -> tuple[str, ...]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stops):
        raise InvalidRequestError("'stop' strings must not be empty.", param="stop")
    return tuple(stops)
