"""What an engine is asked and what it answers: token ids in, token ids out."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

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

    A temperature of 0 is greedy. `top_k` 0 means no limit. `seed` None asks for a fresh one.
    `stop` holds strings matched on text; `max_tokens` None means what the server's settings say.
    `num_logprobs` None asks for no log probabilities, 0 for those of the chosen tokens, n for those of the
    n likeliest as well. `presence_penalty` and `frequency_penalty` are OpenAI's: taken from the logits of
    tokens of the answer so far, once and times their count. `logit_bias` holds pairs of token id and what
    is added to its logit. No stop token is chosen before `min_tokens` tokens.
    """

    max_tokens: int | None = None
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
    """What an engine is asked: tokens and pixels in, at most `max_tokens` tokens out.

    `pixel_values` is float32, (total tiles, 3, tile_px, tile_px), normalised, the images' tiles one after
    another in prompt order; None for a text prompt. `images` tells which image tokens they belong to.
    The engine ends a request after any id of `stop_token_ids`.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int]
    images: tuple[ImageSpan, ...] = ()
    pixel_values: PixelValues | None = None


FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log probability of a chosen token, and of the likeliest at its place, likeliest first.

    `top` holds pairs of token id and log probability.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """Newly generated token ids, in order; `finish_reason` is set on the last delta only.

    A stop token, where one ended the request, is the last id. `logprobs`, when asked for, has one entry
    for each id. `num_cached_tokens`, on the first delta at the latest on the last, are those of the prompt
    that were not computed anew.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    num_cached_tokens: int = 0
