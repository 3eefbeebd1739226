"""TurboMind's own limits. It aborts the whole process on some requests, so they are refused here."""

from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.engine.checks import RequestLimits
from internvl_server.engine.turbomind.logits import logits_bytes
from internvl_server.errors import Field, InvalidRequestError, UnsupportedParameterError

__all__ = ["MAX_LOGITS_BYTES", "check_turbomind_limits"]

# The native sampling kernel keeps at most this many candidates, and aborts the process if asked for more.
_MAX_TOP_K = 1024
# The native side ignores any further ones.
_MAX_STOP_TOKENS = 32
# Host memory for rows of logits of all requests together; its pages are committed as answers grow.
MAX_LOGITS_BYTES = 16 << 30


def check_turbomind_limits(
    request: GenerateRequest, limits: RequestLimits, model_stop_ids: frozenset[int]
) -> None:
    """Refuse a request that TurboMind cannot compute, or would compute differently than asked.

    Args:
        request: Accepted by `check_request` already.
        limits: Limits of the loaded model.
        model_stop_ids: The checkpoint's own stop tokens.

    Raises:
        InvalidRequestError: Names the parameter at fault.
    """
    _check_sampling(request.sampling)
    _check_stop_ids(request, limits, model_stop_ids)
    _check_logits(request, limits)


def _check_sampling(sampling: SamplingParams) -> None:
    if sampling.top_k > _MAX_TOP_K:
        raise InvalidRequestError(
            f"top_k is {sampling.top_k}; the turbomind engine takes at most {_MAX_TOP_K}, or 0 for no "
            "limit.",
            param="top_k",
        )
    if sampling.min_tokens and sampling.constraint is not None:
        # Where the grammar allows only the end, holding it back leaves no token to choose.
        raise UnsupportedParameterError(
            f"The turbomind engine does not take min_tokens together with {sampling.constraint.param}. Leave "
            "one of them out.",
            param="min_tokens",
        )


def _check_stop_ids(
    request: GenerateRequest, limits: RequestLimits, model_stop_ids: frozenset[int]
) -> None:
    """Stop ids index native memory without a bounds check."""
    ids, constraint = request.stop_token_ids, request.sampling.constraint
    if len(ids) > _MAX_STOP_TOKENS:
        raise InvalidRequestError(
            f"The turbomind engine takes at most {_MAX_STOP_TOKENS} stop tokens, including the model's own "
            f"{len(model_stop_ids)}; this request has {len(ids)}.",
            param="stop_token_ids",
        )
    if not limits.has_all(ids):
        raise InvalidRequestError(
            "The stop tokens have ids that the model does not know.", param="stop_token_ids"
        )
    if request.sampling.min_tokens and 0 in ids:
        raise UnsupportedParameterError(
            "The turbomind engine cannot hold the stop token 0 back. Leave min_tokens out.",
            param="min_tokens",
        )
    if constraint is not None and not model_stop_ids <= ids:
        # TurboMind stops enforcing the grammar after the token that ends it.
        raise UnsupportedParameterError(
            f"With {constraint.param}, an answer of the turbomind engine ends with the model's own stop "
            "token. Leave ignore_eos out.",
            param="ignore_eos",
        )


def _check_logits(request: GenerateRequest, limits: RequestLimits) -> None:
    is_chosen = request.sampling.max_tokens is not None  # otherwise the answer may well be short
    if is_chosen and logits_bytes(request, limits.vocab_size) > MAX_LOGITS_BYTES:
        raise InvalidRequestError(
            f"The log probabilities of {request.max_tokens} tokens need more memory than the turbomind "
            "engine has for them. Lower ",
            Field.MAX_TOKENS,
            ", or leave ",
            Field.LOGPROBS,
            " out.",
            param=Field.LOGPROBS,
        )
