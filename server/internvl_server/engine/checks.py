"""What every engine checks before it queues a request: a runtime must never see one it cannot compute."""

import sys
from dataclasses import dataclass

from internvl_server.core import GenerateRequest, ImageSpan
from internvl_server.errors import ContextLengthExceededError, Field, InvalidRequestError

__all__ = ["RequestLimits", "check_request"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of the loaded model.

    `max_model_len` counts prompt and completion. Valid token ids are below `vocab_size`. `tile_px` is the
    side of a tile in pixels; None for an engine that reads no pixels. Each tile has `num_tokens_per_tile`
    image tokens in the prompt.
    """

    max_model_len: int
    vocab_size: int = sys.maxsize
    tile_px: int | None = None
    num_tokens_per_tile: int = 0

    def has_all(self, token_ids: frozenset[int] | tuple[int, ...]) -> bool:
        """Whether the model knows each of these ids."""
        return not token_ids or 0 <= min(token_ids) <= max(token_ids) < self.vocab_size


def check_request(request: GenerateRequest, limits: RequestLimits) -> None:
    """Refuse a request that can never be computed, or that would fail the requests computed beside it.

    Raises:
        InvalidRequestError: Names the parameter at fault.
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
    room = limits.max_model_len - num_prompt_tokens
    if request.sampling.min_tokens > room:
        raise InvalidRequestError(
            f"'min_tokens' is {request.sampling.min_tokens}, but the prompt leaves {room} tokens.",
            param="min_tokens",
        )
    if not limits.has_all(request.prompt_token_ids):
        raise InvalidRequestError("The prompt has token ids that the model does not know.")
    _check_biases(request, limits)
    if limits.tile_px is not None:
        _check_pixels(request, limits.tile_px)
        _check_spans(request.images, limits.num_tokens_per_tile, num_prompt_tokens)


def _check_biases(request: GenerateRequest, limits: RequestLimits) -> None:
    for token_id, _ in request.sampling.logit_bias:
        if not 0 <= token_id < limits.vocab_size:
            raise InvalidRequestError(
                f"'logit_bias' names token {token_id}; the model has ids 0 to {limits.vocab_size - 1}.",
                param="logit_bias",
            )


def _check_pixels(request: GenerateRequest, tile_px: int) -> None:
    shapes = [values.shape for values in request.pixel_values]
    if shapes != [(span.num_tiles, 3, tile_px, tile_px) for span in request.images]:
        num_tiles = [span.num_tiles for span in request.images]
        raise InvalidRequestError(
            f"Images of {num_tiles} tiles do not match pixel values of the shapes {shapes}."
        )


def _check_spans(spans: tuple[ImageSpan, ...], num_tokens_per_tile: int, prompt_len: int) -> None:
    """Embeddings are written where the spans say, without another check."""
    end = 0
    for span in spans:
        if span.num_image_tokens != span.num_tiles * num_tokens_per_tile:
            raise InvalidRequestError(
                f"An image of {span.num_tiles} tiles has {span.num_image_tokens} tokens in the "
                f"prompt; it needs {num_tokens_per_tile} for each tile."
            )
        if span.offset < end:
            raise InvalidRequestError("The images of the prompt overlap or are out of order.")
        end = span.offset + span.num_image_tokens
    if end > prompt_len:
        raise InvalidRequestError("An image reaches beyond the end of the prompt.")
