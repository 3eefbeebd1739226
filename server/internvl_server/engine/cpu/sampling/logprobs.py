"""Log probabilities of the model's own distribution."""

from torch import Tensor

from internvl_server.core import TokenLogprobs

__all__ = ["token_logprobs"]


def token_logprobs(log_softmax: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """The log probabilities of one token of the answer.

    They are those of the logits before penalties, biases, grammar, temperature and filters.

    Args:
        log_softmax: float32, (vocab_size,): natural logarithms of the model's distribution.
        token_id: The token that was chosen.
        num_top: How many of the likeliest tokens to report as well.
    """
    top = log_softmax.topk(min(num_top, len(log_softmax)))
    return TokenLogprobs(
        float(log_softmax[token_id]),
        tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
    )
