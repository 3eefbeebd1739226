"""Which requests need rows of logits for their log probabilities, and the host memory that either kind takes.

TurboMind reports the distribution it draws from: after penalty, temperature, filters and grammar, and only
for the tokens they keep. That is the model's distribution only if none of them is in use. Otherwise it is
asked for the logits themselves, one row of the whole vocabulary for each token of the answer.
"""

from dataclasses import fields

from internvl_server.concurrency.budget import Budget
from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.errors import EngineOverloadedError, Field

__all__ = ["logits_budget", "logits_bytes", "needs_logits"]

_BYTES_PER_LOGIT = 2  # in the model's 16-bit dtype
# TurboMind's own log probabilities of a token: 1024 values and 1024 ids, 4 bytes each.
_BYTES_PER_TOKEN = 8192
_ROWS = 256  # memory is reserved for this many tokens at a time


# Parameters that leave TurboMind's distribution the model's own. Any other one, a new one included, counts as
# changing it unless it has its default value.
_HARMLESS = frozenset({"max_tokens", "default_max_tokens", "seed", "stop", "num_logprobs"})


def needs_logits(sampling: SamplingParams) -> bool:
    """Whether the log probabilities asked for must be computed from logits."""
    return sampling.num_logprobs is not None and any(
        getattr(sampling, field.name) != field.default
        for field in fields(SamplingParams)
        if field.name not in _HARMLESS
    )


def logits_bytes(request: GenerateRequest, vocab_size: int, num_tokens: int | None = None) -> int:
    """Memory for the log probabilities of an answer; 0 if none are asked for.

    Args:
        request: The request.
        vocab_size: Number of logits in a row.
        num_tokens: Tokens of the answer so far, for the memory until some more have come; None for the
            longest answer. Pages are committed as the answer grows.
    """
    if request.sampling.num_logprobs is None:
        return 0
    is_whole = needs_logits(request.sampling)
    row_bytes = vocab_size * _BYTES_PER_LOGIT if is_whole else _BYTES_PER_TOKEN
    num_rows = request.max_tokens + 1
    if num_tokens is not None:
        num_rows = min(num_rows, (num_tokens // _ROWS + 1) * _ROWS)
    return num_rows * row_bytes


def logits_budget(max_bytes: int) -> Budget:
    """The budget for the logits of all waiting and running requests, in bytes."""
    return Budget(max_bytes, _no_memory)


def _no_memory(_: int) -> EngineOverloadedError:
    return EngineOverloadedError(
        "The engine has no memory for more log probabilities now. Retry shortly, or lower ",
        Field.MAX_TOKENS,
        ".",
    )
