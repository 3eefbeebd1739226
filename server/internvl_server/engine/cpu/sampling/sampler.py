"""From the logits of one token to its id, as one request's parameters ask for.

Order: repetition penalty, presence and frequency penalty, logit bias, what the guide forbids, stop
tokens before `min_tokens`, temperature, top_k, top_p, min_p, draw. That is transformers' `generate`
with OpenAI's parameters put behind the penalty that multiplies. Each filter keeps at least the most
likely token; top_p is taken of the probabilities that top_k left. Where a guide allows nothing but
the end, the end is chosen, `min_tokens` or not.

The draw takes one uniform number of the request's own generator, so a seed gives the same text
whatever else is computed at the same time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from internvl_server.core import SamplingParams
from internvl_server.engine.cpu.sampling.penalties import Penalties
from internvl_server.engine.guided.matcher import GrammarMatcher

__all__ = ["Sampler", "filter_logits"]

# So many candidates are looked at before the whole vocabulary is sorted for top_p: sorting 150 000
# logits takes longer than a step of a small model.
_NUM_LIKELY = 512

# Below this, dividing by the temperature leaves the numbers' range; the likeliest token wins anyway.
_MIN_TEMPERATURE = 1e-5


class Sampler:
    """Chooses the tokens of one request and remembers what the next choice depends on.

    Args:
        params: The request's parameters; a seed of None draws a fresh one.
        prompt_token_ids: Ids of the prompt that a repetition penalty covers.
        stop_token_ids: Ids of the vocabulary that are not chosen before `params.min_tokens` tokens.
        guide: What the answer is held to.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Iterable[int] = (),
        stop_token_ids: Iterable[int] = (),
        guide: GrammarMatcher | None = None,
    ) -> None:
        self._params = params
        self._penalties = Penalties.of(params, prompt_token_ids)
        self._stops = torch.tensor(sorted(stop_token_ids), dtype=torch.int64)
        self._guide = guide
        self._num_chosen = 0
        self._is_greedy = params.temperature < _MIN_TEMPERATURE
        self._is_adjusted = bool(
            self._penalties or guide or (params.min_tokens and len(self._stops))
        )
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % (1 << 63))

    @property
    def is_plain_greedy(self) -> bool:
        """The most likely token is all that is wanted, so many rows can be done at once."""
        return self._is_greedy and not self._is_adjusted

    @property
    def is_complete(self) -> bool:
        """The guide allows nothing but the end now."""
        return self._guide is not None and self._guide.is_complete

    def choose(self, logits: Tensor) -> int:
        """Choose a token.

        Args:
            logits: float32, (vocab_size,); may be changed.

        Raises:
            EngineError: The guide has become too large to go on with.
        """
        if self._is_adjusted:
            self._adjust(logits)
        token_id = int(logits.argmax()) if self._is_greedy else self._draw(logits)
        self._num_chosen += 1
        if self._penalties is not None:
            self._penalties.observe(token_id)
        if self._guide is not None:
            self._guide.advance(token_id)
        return token_id

    def _adjust(self, logits: Tensor) -> None:
        """Apply what comes before the temperature, in place."""
        if self._penalties is not None:
            self._penalties.apply(logits)
        if self._guide is not None:
            logits.masked_fill_(torch.from_numpy(self._guide.forbidden), -torch.inf)
        if self._num_chosen < self._params.min_tokens and len(self._stops):
            kept = logits[self._stops]
            logits[self._stops] = -torch.inf
            if logits.max() == -torch.inf:
                logits[self._stops] = kept

    def _draw(self, logits: Tensor) -> int:
        weights, token_ids = filter_logits(logits, self._params)
        cumulative = weights.cumsum(0)
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        # `right` so that a weight of zero is never drawn; the clamp is for a point rounded to the
        # end.
        index = int(torch.searchsorted(cumulative, point, right=True).clamp(max=len(weights) - 1))
        return index if token_ids is None else int(token_ids[index])


def filter_logits(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Weights of the tokens that may be drawn.

    Args:
        logits: float32, (vocab_size,), penalty applied.
        params: A temperature above 0 and the filters.

    Returns:
        Weights (float64, not normalised) and their token ids, most likely first; or the weights of
        the whole vocabulary in its own order and None when nothing is filtered.
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
    """At least every token that the filters can keep, most likely first."""
    if top_k == len(scaled) > _NUM_LIKELY and top_p < 1.0:
        values, token_ids = scaled.topk(_NUM_LIKELY)
        weights = values.exp()
        if weights.sum() >= top_p * scaled.exp().sum():
            return weights, token_ids
    values, token_ids = scaled.topk(top_k)
    return values.exp(), token_ids
