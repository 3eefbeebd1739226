"""What a request must keep to so that it can be computed at all, checked before it is queued."""

from dataclasses import dataclass

from internvl_server.core import GenerateRequest
from internvl_server.errors import ContextLengthExceededError, Field, InvalidRequestError

__all__ = ["RequestLimits", "check_request"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of the loaded model. `tile_shape` is (3, tile_px, tile_px)."""

    max_model_len: int
    vocab_size: int
    tile_shape: tuple[int, int, int]
    num_tokens_per_tile: int


def check_request(request: GenerateRequest, limits: RequestLimits) -> None:
    """Refuse what can never be computed, or would fail a step and the requests beside it.

    Raises:
        InvalidRequestError: With the parameter at fault.
    """
    num_prompt_tokens = len(request.prompt_token_ids)
    if not num_prompt_tokens or request.max_tokens < 1:
        raise InvalidRequestError(
            "A request needs a prompt and ",
            Field.MAX_TOKENS,
            " of at least 1.",
            param=Field.MAX_TOKENS,
        )
    if num_prompt_tokens >= limits.max_model_len:
        raise ContextLengthExceededError(
            f"The prompt has {num_prompt_tokens} tokens; with at least one of the answer it must "
            f"fit the model's {limits.max_model_len}.",
            param=Field.PROMPT,
        )
    if not 0 <= min(request.prompt_token_ids) <= max(request.prompt_token_ids) < limits.vocab_size:
        raise InvalidRequestError("The prompt has token ids that the model does not know.")
    unknown = [i for i, _ in request.sampling.logit_bias if not 0 <= i < limits.vocab_size]
    if unknown:
        raise InvalidRequestError(
            f"'logit_bias' names token {unknown[0]}; the model has ids 0 to {limits.vocab_size - 1}.",
            param="logit_bias",
        )
    _check_images(request, limits)


def _check_images(request: GenerateRequest, limits: RequestLimits) -> None:
    """Spans and pixels must say the same, or embeddings would land in the wrong place."""
    num_tiles = sum(span.num_tiles for span in request.images)
    shape = None if request.pixel_values is None else request.pixel_values.shape
    if shape != ((num_tiles, *limits.tile_shape) if request.images else None):
        raise InvalidRequestError(
            f"The images' {num_tiles} tiles do not match pixel values of shape {shape}."
        )
    end = 0
    for span in request.images:
        if span.num_image_tokens != span.num_tiles * limits.num_tokens_per_tile:
            raise InvalidRequestError(
                f"An image of {span.num_tiles} tiles has {span.num_image_tokens} tokens in the "
                f"prompt; it needs {limits.num_tokens_per_tile} for each tile."
            )
        if span.offset < end:
            raise InvalidRequestError("The images of the prompt overlap or are out of order.")
        end = span.offset + span.num_image_tokens
    if end > len(request.prompt_token_ids):
        raise InvalidRequestError("An image reaches beyond the end of the prompt.")
