"""Converts a request's parameters to LMDeploy's."""

import secrets

from lmdeploy.messages import GenerationConfig

from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.engine.turbomind.logits import needs_logits

__all__ = ["generation_config"]

# The native side needs at least one id for every request. It copies the ids of a batch to rows and assigns
# the row of a request without ids to the next one, whose `min_new_tokens` would hold back the wrong tokens.
_NO_TOKEN = -1


def generation_config(request: GenerateRequest) -> GenerationConfig:
    """Convert everything but the constraint and the stop strings.

    The native side makes two lists of `stop_token_ids`: ids that end the answer, and ids that
    `min_new_tokens` holds back. `ignore_eos` empties the first list.
    """
    sampling = request.sampling
    is_greedy = sampling.temperature == 0 or sampling.top_p == 0
    has_logits = needs_logits(sampling)
    return GenerationConfig(
        max_new_tokens=request.max_tokens,
        do_sample=not is_greedy,  # read by LMDeploy's server only; the native side uses top_k
        top_k=1 if is_greedy else sampling.top_k,
        top_p=1.0 if is_greedy else sampling.top_p,
        min_p=0.0 if is_greedy else sampling.min_p,
        temperature=1.0 if is_greedy else sampling.temperature,
        repetition_penalty=sampling.repetition_penalty,
        random_seed=_seed(sampling),
        stop_token_ids=sorted(request.stop_token_ids) or [_NO_TOKEN],
        ignore_eos=not request.stop_token_ids,
        min_new_tokens=_min_new_tokens(request),
        logprobs=None if has_logits else _num_logprobs(sampling),
        output_logits="generation" if has_logits else None,
    )


def _min_new_tokens(request: GenerateRequest) -> int | None:
    """Natively, token number `min_new_tokens` may be a stop token; here only the one after `min_tokens`."""
    least = request.sampling.min_tokens
    return least + 1 if least and request.stop_token_ids else None


def _num_logprobs(sampling: SamplingParams) -> int | None:
    # Natively 0 means none at all; with 1, the chosen token's own is included.
    return None if sampling.num_logprobs is None else max(sampling.num_logprobs, 1)


def _seed(sampling: SamplingParams) -> int:
    """The native seed is unsigned; a request without one gets a random seed."""
    return secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
