"""Log probabilities that TurboMind does not hand out: taken from rows of logits, in a bounded memory.

Its own are of what it draws from: after the penalty, the temperature, the filters and the guide, and only of
what these have left. They are the model's where none of these does anything. Otherwise it is asked for the
logits themselves, a row of the whole vocabulary for each token of the answer.
"""

from internvl_server.concurrency.budget import Budget
from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.errors import EngineOverloadedError

__all__ = ["logits_budget", "logits_bytes", "needs_logits"]

_BYTES_PER_LOGIT = 2  # of the model's 16 bit type


def needs_logits(sampling: SamplingParams) -> bool:
    """Whether the log probabilities asked for have to be taken from logits."""
    is_plain = (
        (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (1.0, 1.0, 1.0)
        and (sampling.top_k, sampling.min_p, sampling.min_tokens) == (0, 0.0, 0)
        and sampling.constraint is None
    )
    return sampling.num_logprobs is not None and not is_plain


def logits_bytes(request: GenerateRequest, vocab_size: int) -> int:
    """Memory the logits of the longest answer take; 0 if none are needed."""
    if not needs_logits(request.sampling):
        return 0
    return (request.max_tokens + 1) * vocab_size * _BYTES_PER_LOGIT


def logits_budget(max_bytes: int) -> Budget:
    """Bounds the bytes that the logits of all requests take while these wait and run."""
    return Budget(max_bytes, _no_memory)


def _no_memory(_: int) -> EngineOverloadedError:
    return EngineOverloadedError(
        "The engine has no memory for more log probabilities now. Retry shortly, or set max_tokens lower."
    )
