"""Chooses the next token of a request from its logits.

Order: repetition penalty, presence and frequency penalty, logit bias, grammar, stop tokens before
`min_tokens`, temperature, top_k, top_p, min_p, draw. This is the order of transformers' `generate`, with
OpenAI's parameters after the repetition penalty. Each filter keeps at least the likeliest token; top_p
applies to the probabilities that top_k keeps. If the grammar allows only the end, the end is chosen in spite
of `min_tokens`.

Each request has its own random generator and draws one number a token, so that seeded text does not depend on
other requests.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from internvl_server.core import SamplingParams
from internvl_server.engine.cpu.sampling.penalties import Penalties
from internvl_server.engine.guided.matcher import GrammarMatcher

__all__ = ["Sampler", "filter_logits"]

# For top_p, this many of the likeliest tokens are tried before the whole vocabulary is sorted: sorting
# 150,000 logits takes longer than a step of a small model.
_NUM_LIKELY = 512

# Below this, dividing by the temperature may overflow; the likeliest token would win anyway.
_MIN_TEMPERATURE = 1e-5


class Sampler:
    """Chooses the tokens of one request and keeps the state that the next choice depends on.

    Args:
        params: The request's parameters; a seed of None draws a fresh one.
        prompt_token_ids: Ids of the prompt that a repetition penalty covers.
        stop_token_ids: Ids that are not chosen before `params.min_tokens` tokens.
        grammar: Constrains the answer.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Iterable[int] = (),
        stop_token_ids: Iterable[int] = (),
        grammar: GrammarMatcher | None = None,
    ) -> None:
        self._params = params
        self._penalties = Penalties.of(params, prompt_token_ids)
        self._stops = torch.tensor(sorted(stop_token_ids), dtype=torch.int64)
        self._grammar = grammar
        self._num_chosen = 0
        self._is_greedy = params.temperature < _MIN_TEMPERATURE
        self._is_adjusted = bool(
            self._penalties or grammar or (params.min_tokens and len(self._stops))
        )
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % (1 << 63))

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the likeliest token is chosen as it is, so that many rows can be computed at once."""
        return self._is_greedy and not self._is_adjusted

    @property
    def is_complete(self) -> bool:
        """Whether the grammar allows only the end now."""
        return self._grammar is not None and self._grammar.is_complete

    def choose(self, logits: Tensor) -> int:
        """Choose a token.

        Args:
            logits: float32, (vocab_size,); may be changed.

        Raises:
            EngineError: The state of the grammar has grown beyond its limit.
        """
        if self._is_adjusted:
            self._adjust(logits)
        token_id = int(logits.argmax()) if self._is_greedy else self._draw(logits)
        self._num_chosen += 1
        if self._penalties is not None:
            self._penalties.observe(token_id)
        if self._grammar is not None:
            self._grammar.advance(token_id)
        return token_id

    def _adjust(self, logits: Tensor) -> None:
        """Apply penalties, grammar and `min_tokens`, in place."""
        if self._penalties is not None:
            self._penalties.apply(logits)
        if self._grammar is not None:
            logits.masked_fill_(torch.from_numpy(self._grammar.forbidden), -torch.inf)
        if self._num_chosen < self._params.min_tokens and len(self._stops):
            kept = logits[self._stops]
            logits[self._stops] = -torch.inf
            if logits.max() == -torch.inf:
                logits[self._stops] = kept

    def _draw(self, logits: Tensor) -> int:
        weights, token_ids = filter_logits(logits, self._params)
        cumulative = weights.cumsum(0)
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        # `right`, so that a weight of zero is never drawn; the clamp is for a point rounded up to the end.
        index = int(torch.searchsorted(cumulative, point, right=True).clamp(max=len(weights) - 1))
        return index if token_ids is None else int(token_ids[index])


def filter_logits(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Compute the weights of the tokens that may be drawn.

    Args:
        logits: float32, (vocab_size,), after penalties.
        params: A temperature above 0 and the filters.

    Returns:
        Weights (float64, not normalised) and their token ids, likeliest first. Without any filter, the
        weights of the whole vocabulary in order of their ids, and None.
    """
    scaled = logits.double() / params.temperature
    scaled -= scaled.max()
    vocab_size = len(scaled)
    top_k = min(params.top_k, vocab_size) if params.top_k > 0 else vocab_size
    if top_k == vocab_size and params.top_p >= 1.0 and params.min_p <= 0.0:
        return scaled.exp(), None
    weights, token_ids = _most_likely(scaled, top_k, params.top_p)
    keep = torch.ones(len(weights), dtype=torch.bool)
    if params.top_p < 1.0:
        total = weights.sum() if top_k < vocab_size else scaled.exp().sum()
        keep &= weights.cumsum(0) - weights < params.top_p * total
    if params.min_p > 0.0:
        keep &= weights >= params.min_p * weights[0]
    keep[0] = True
    return weights[keep], token_ids[keep]


def _most_likely(scaled: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """At least every token that the filters can keep, likeliest first."""
    if top_k == len(scaled) > _NUM_LIKELY and top_p < 1.0:
        values, token_ids = scaled.topk(_NUM_LIKELY)
        weights = values.exp()
        if weights.sum() >= top_p * scaled.exp().sum():
            return weights, token_ids
    values, token_ids = scaled.topk(top_k)
    return values.exp(), token_ids
