"""What a request must keep to before TurboMind sees it: what it cannot compute ends the whole process."""

import sys
from dataclasses import dataclass
from typing import Self

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.engine.turbomind.logits import logits_bytes
from internvl_server.errors import (
    ContextLengthExceededError,
    Field,
    InvalidRequestError,
    UnsupportedParameterError,
)

__all__ = ["MAX_LOGITS_BYTES", "RequestLimits", "check_request"]

# The native sampling kernel keeps no more candidates, and ends the process when asked to.
_MAX_TOP_K = 1024
# The native side forgets what is more.
_MAX_STOP_TOKENS = 32
# Host memory for rows of logits, of all requests together; it is touched as answers grow.
MAX_LOGITS_BYTES = 16 << 30


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of the loaded model. `tile_shape` is (3, tile_px, tile_px), `stop_token_ids` are its own."""

    max_model_len: int
    vocab_size: int
    tile_shape: tuple[int, int, int]
    num_tokens_per_tile: int
    stop_token_ids: frozenset[int]

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, max_model_len: int) -> Self:
        """The limits a checkpoint's config sets."""
        text = checkpoint.config.get("llm_config") or checkpoint.config.get("text_config") or {}
        return cls(
            max_model_len=max_model_len,
            vocab_size=int(text.get("vocab_size", sys.maxsize)),
            tile_shape=(3, checkpoint.tile_px, checkpoint.tile_px),
            num_tokens_per_tile=checkpoint.num_tokens_per_tile,
            stop_token_ids=checkpoint.stop_token_ids,
        )


def check_request(request: GenerateRequest, limits: RequestLimits) -> None:
    """Refuse what can never be computed, or would be computed otherwise than asked.

    Raises:
        InvalidRequestError: With the parameter at fault.
    """
    ids = request.prompt_token_ids
    if not ids or request.max_tokens < 1:
        raise InvalidRequestError(
            "A request needs a prompt and ",
            Field.MAX_TOKENS,
            " of at least 1.",
            param=Field.MAX_TOKENS,
        )
    if len(ids) >= limits.max_model_len:
        raise ContextLengthExceededError(
            f"The prompt has {len(ids)} tokens; with at least one of the answer it must fit the "
            f"model's {limits.max_model_len}.",
            param=Field.PROMPT,
        )
    if not 0 <= min(ids) <= max(ids) < limits.vocab_size:
        raise InvalidRequestError("The prompt has token ids that the model does not know.")
    _check_sampling(request.sampling)
    _check_ends(request, limits)
    _check_logits(request, limits)
    _check_images(request, limits)


def _check_sampling(sampling: SamplingParams) -> None:
    if sampling.top_k > _MAX_TOP_K:
        raise InvalidRequestError(
            f"top_k is {sampling.top_k}; the turbomind engine takes at most {_MAX_TOP_K}, or 0 for no "
            "limit.",
            param="top_k",
        )
    if sampling.min_tokens and sampling.constraint is not None:
        # Where only the end is left, holding it back leaves nothing to choose from.
        raise UnsupportedParameterError(
            f"The turbomind engine does not take min_tokens together with {sampling.constraint.param}. Leave "
            "one of them out.",
            param="min_tokens",
        )


def _check_ends(request: GenerateRequest, limits: RequestLimits) -> None:
    """Stop ids are written to and read from native memory without a check."""
    ids, constraint = request.stop_token_ids, request.sampling.constraint
    if len(ids) > _MAX_STOP_TOKENS:
        raise InvalidRequestError(
            f"The turbomind engine takes at most {_MAX_STOP_TOKENS} stop tokens, the model's own "
            f"{len(limits.stop_token_ids)} among them; these are {len(ids)}.",
            param="stop_token_ids",
        )
    if ids and not 0 <= min(ids) <= max(ids) < limits.vocab_size:
        raise InvalidRequestError(
            "The stop tokens have ids that the model does not know.", param="stop_token_ids"
        )
    if request.sampling.min_tokens and 0 in ids:
        raise UnsupportedParameterError(
            "The turbomind engine cannot hold the stop token 0 back. Leave min_tokens out.",
            param="min_tokens",
        )
    if constraint is not None and not limits.stop_token_ids <= ids:
        # After the token that ends what a guide describes, nothing is guided any more.
        raise UnsupportedParameterError(
            f"With {constraint.param} an answer of the turbomind engine ends with the model's own stop "
            "token. Leave ignore_eos out.",
            param="ignore_eos",
        )


def _check_logits(request: GenerateRequest, limits: RequestLimits) -> None:
    num_bytes = logits_bytes(request, limits.vocab_size)
    if num_bytes > MAX_LOGITS_BYTES:
        raise InvalidRequestError(
            f"The log probabilities of {request.max_tokens} tokens need more memory than the turbomind "
            "engine has for them. Lower ",
            Field.MAX_TOKENS,
            ", or leave ",
            Field.LOGPROBS,
            " out.",
            param=Field.LOGPROBS,
        )


def _check_images(request: GenerateRequest, limits: RequestLimits) -> None:
    """Spans and pixels must say the same: the native side writes embeddings where the spans say."""
    num_tiles = sum(span.num_tiles for span in request.images)
    shape = None if request.pixel_values is None else request.pixel_values.shape
    if shape != ((num_tiles, *limits.tile_shape) if request.images else None):
        raise InvalidRequestError(
            f"The images' {num_tiles} tiles do not match pixel values of shape {shape}."
        )
    end = 0
    for span in request.images:
        is_whole = span.num_image_tokens == span.num_tiles * limits.num_tokens_per_tile
        if not is_whole or span.offset < end:
            raise InvalidRequestError(f"The image at token {span.offset} has no place of its own.")
        end = span.offset + span.num_image_tokens
    if end > len(request.prompt_token_ids):
        raise InvalidRequestError("An image reaches beyond the end of the prompt.")
