"""What goes into an engine and what comes out: token ids both ways."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from internvl_server.core.constraints import Constraint
from internvl_server.core.prompt import ImageSpan, PixelValues

__all__ = [
    "FinishReason",
    "GenerateRequest",
    "SamplingParams",
    "TokenDelta",
    "TokenLogprobs",
]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop.

    A `temperature` of 0 is greedy. A `top_k` of 0 means no limit. Without a `seed` the engine draws one.
    `stop` holds strings matched on text. Without `max_tokens` the limit is `default_max_tokens`, or else the
    server's, and is lowered to what the prompt leaves of the context.
    `num_logprobs` None asks for no log probabilities, 0 for those of the chosen tokens, n for those of the
    n likeliest as well. `presence_penalty` and `frequency_penalty` are OpenAI's: they are subtracted from the
    logits of tokens generated so far, once and times their count. `logit_bias` holds pairs of a token id and
    the number added to its logit. No stop token is chosen before `min_tokens` tokens.
    """

    max_tokens: int | None = None
    default_max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    constraint: Constraint | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A request to an engine: tokens and pixels in, at most `max_tokens` tokens out.

    `images` are the places of images among the prompt's tokens, and `pixel_values` the tiles of each of them,
    of the engine's pixel type. An engine does not write to them, because requests share them.
    The engine ends a request after any id of `stop_token_ids`.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int]
    images: tuple[ImageSpan, ...] = ()
    pixel_values: tuple[PixelValues, ...] = ()


FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log probabilities of a chosen token and of the likeliest at its position, likeliest first.

    `top` holds pairs of token id and log probability.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenDelta(NamedTuple):
    """Newly generated token ids, in order; `finish_reason` is set on the last delta only.

    If a stop token ended the request, it is the last id. `logprobs`, if requested, has one entry for each id.
    `num_cached_tokens` counts the prompt tokens whose prefill was skipped; it is set on the last delta at the
    latest. A named tuple, because one is made for every token.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    num_cached_tokens: int = 0
