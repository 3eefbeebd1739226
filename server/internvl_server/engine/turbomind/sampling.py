"""A request's parameters in LMDeploy's words."""

import secrets

from lmdeploy.messages import GenerationConfig

from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.engine.turbomind.logits import needs_logits

__all__ = ["generation_config"]

# The native side wants some id for every request: it copies the ids of a batch to rows and gives the one
# of a request without any to the next, whose `min_new_tokens` would then hold back the wrong tokens.
_NO_TOKEN = -1


def generation_config(request: GenerateRequest) -> GenerationConfig:
    """The request's parameters in LMDeploy's words; no grammar, no stop strings.

    `stop_token_ids` becomes two lists natively: ids that end the answer, and ids that
    `min_new_tokens` holds back; `ignore_eos` leaves the first one out.
    """
    sampling = request.sampling
    is_greedy = sampling.temperature == 0 or sampling.top_p == 0
    has_logits = needs_logits(sampling)
    return GenerationConfig(
        max_new_tokens=request.max_tokens,
        do_sample=not is_greedy,  # read by LMDeploy's server only; the native side goes by top_k
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
    """The native side lets token number `min_new_tokens` be a stop token; with us it is the next one."""
    least = request.sampling.min_tokens
    return least + 1 if least and request.stop_token_ids else None


def _num_logprobs(sampling: SamplingParams) -> int | None:
    # 0 would mean none at all: the chosen token's own comes with the likeliest one.
    return None if sampling.num_logprobs is None else max(sampling.num_logprobs, 1)


def _seed(sampling: SamplingParams) -> int:
    """The native seed is unsigned; a fresh one for each request that brings none."""
    return secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
