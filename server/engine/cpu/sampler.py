"""From the logits of one token to its id, as one request's parameters ask for.

Order, as in transformers' `generate`: repetition penalty, temperature, top_k, top_p, min_p, draw.
Each filter keeps at least the most likely token; top_p is taken of the probabilities that top_k
left.

The penalty covers the text of the prompt and everything generated. The placeholders of images are
left out: they stand for pixels, the model did not read their id.

The draw takes one uniform number of the request's own generator, so a seed gives the same text
whatever else is computed at the same time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from server.core import SamplingParams

__all__ = ["Sampler", "filter_logits"]

# So many candidates are looked at before the whole vocabulary is sorted for top_p: sorting 150 000
# logits takes longer than a step of a small model.
_NUM_LIKELY = 512

# Below this, dividing by the temperature leaves the numbers' range; the likeliest token wins anyway.
_MIN_TEMPERATURE = 1e-5


class Sampler:
    """Chooses the tokens of one request and remembers which it has seen.

    Args:
        params: The request's parameters; a seed of None draws a fresh one.
        prompt_token_ids: Ids of the prompt that a repetition penalty covers.
    """

    def __init__(self, params: SamplingParams, prompt_token_ids: Iterable[int]) -> None:
        self._params = params
        self._has_penalty = params.repetition_penalty != 1.0
        self._seen = dict.fromkeys(prompt_token_ids) if self._has_penalty else {}
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % (1 << 63))

    @property
    def is_plain_greedy(self) -> bool:
        """The most likely token is all that is wanted, so many rows can be done at once."""
        return self._params.temperature < _MIN_TEMPERATURE and not self._has_penalty

    def choose(self, logits: Tensor) -> int:
        """Choose a token.

        Args:
            logits: float32, (vocab_size,); may be changed.
        """
        if self._has_penalty:
            self._penalise(logits)
        token_id = (
            self._draw(logits)
            if self._params.temperature >= _MIN_TEMPERATURE
            else int(logits.argmax())
        )
        if self._has_penalty:
            self._seen[token_id] = None
        return token_id

    def _penalise(self, logits: Tensor) -> None:
        seen = torch.tensor(list(self._seen), dtype=torch.int64)
        scores = logits[seen]
        penalty = self._params.repetition_penalty
        logits[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)

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
