"""Penalties and biases on the logits of single tokens."""

from collections import Counter
from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from internvl_server.core import SamplingParams

__all__ = ["Penalties"]


class Penalties:
    """Penalties and biases of one request, in the order of `apply`.

    The repetition penalty covers the text of the prompt and the generated tokens. Image tokens are left out,
    because they stand for pixels. Presence and frequency penalty cover the generated tokens.

    Args:
        params: The request's parameters.
        prompt_token_ids: Ids of the prompt that a repetition penalty covers.
    """

    def __init__(self, params: SamplingParams, prompt_token_ids: Iterable[int]) -> None:
        self._repetition = params.repetition_penalty
        self._presence = params.presence_penalty
        self._frequency = params.frequency_penalty
        self._seen = dict.fromkeys(prompt_token_ids) if self._repetition != 1.0 else {}
        self._counts: Counter[int] = Counter()
        biases = dict(params.logit_bias)
        self._biased = _ids(biases)
        self._biases = torch.tensor(list(biases.values()), dtype=torch.float32)

    @classmethod
    def of(cls, params: SamplingParams, prompt_token_ids: Iterable[int]) -> Self | None:
        """The penalties of a request; None if it has none."""
        is_asked = (
            params.repetition_penalty != 1.0
            or params.presence_penalty
            or params.frequency_penalty
            or params.logit_bias
        )
        return cls(params, prompt_token_ids) if is_asked else None

    def observe(self, token_id: int) -> None:
        """Record a generated token."""
        if self._repetition != 1.0:
            self._seen[token_id] = None
        if self._presence or self._frequency:
            self._counts[token_id] += 1

    def apply(self, logits: Tensor) -> None:
        """Change the logits of the tokens concerned.

        The repetition penalty is that of Keskar et al. 2019 (CTRL), as in transformers: it divides a
        positive logit and multiplies a negative one. The presence penalty is subtracted once, the
        frequency penalty times the count, as in OpenAI's API. A bias is added.

        Args:
            logits: float32, (vocab_size,); changed.
        """
        if self._seen:
            seen = _ids(self._seen)
            scores = logits[seen]
            logits[seen] = torch.where(
                scores < 0, scores * self._repetition, scores / self._repetition
            )
        if self._counts:
            counts = torch.tensor(list(self._counts.values()), dtype=torch.float32)
            logits[_ids(self._counts)] -= self._presence + self._frequency * counts
        logits[self._biased] += self._biases


def _ids(token_ids: Iterable[int]) -> Tensor:
    return torch.tensor(list(token_ids), dtype=torch.int64)
