"""Divides the model's context between the text, the images and the answer."""

from collections.abc import Sequence

from internvl_server.core import Conversation, ImageMeasure, ImageTiles, SamplingParams
from internvl_server.engine.base import EngineInfo
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.prompt.builder import PromptSkeleton
from internvl_server.settings import LimitSettings

__all__ = ["Lengths", "fewer_tiles_warnings"]

# Images leave this much to an answer without a limit, but at most a quarter of the context.
_KEPT_FOR_ANSWER = 1024
# Log probabilities take memory for each token that an answer may have.
_MAX_DEFAULT_LOGPROBS = 1024


class Lengths:
    """How many tokens images and answers may have.

    Args:
        info: The engine's context and its default limit of an answer.
        limits: The server's default limit of an answer.
    """

    def __init__(self, info: EngineInfo, limits: LimitSettings) -> None:
        self._max_model_len = info.max_model_len
        self._default = limits.default_max_tokens or info.default_max_tokens or info.max_model_len

    def default_max_tokens(self, sampling: SamplingParams) -> int:
        """The limit of an answer whose request has none. It is lowered to what the prompt leaves."""
        if sampling.default_max_tokens is not None:
            return sampling.default_max_tokens
        if sampling.num_logprobs is None:
            return self._default
        return min(self._default, _MAX_DEFAULT_LOGPROBS)

    def image_budget(
        self, conversation: Conversation, skeleton: PromptSkeleton, sampling: SamplingParams
    ) -> ImageBudget:
        """The tokens that text and answer leave for images; may be less than one tile needs.

        Room is kept for an answer without a limit. Before an image is refused, images may take all of that
        room but one token.
        """
        room = self._max_model_len - skeleton.num_tokens
        if sampling.max_tokens is not None:
            room -= sampling.max_tokens
            return ImageBudget(room, room, conversation.num_earlier_media)
        kept = min(
            self.default_max_tokens(sampling), _KEPT_FOR_ANSWER, max(self._max_model_len // 4, 1)
        )
        return ImageBudget(room - 1, room - kept, conversation.num_earlier_media)


def fewer_tiles_warnings(images: Sequence[ImageTiles | ImageMeasure]) -> tuple[str, ...]:
    """A sentence that says how many images have fewer tiles than they request, if any has."""
    fewer = [image for image in images if image.num_tiles < image.num_requested_tiles]
    if not fewer:
        return ()
    num_tiles = sum(image.num_tiles for image in fewer)
    num_requested = sum(image.num_requested_tiles for image in fewer)
    return (
        f"{len(fewer)} of {len(images)} images and frames have fewer tiles than requested, "
        f"{num_tiles} instead of {num_requested}, so that all of them fit.",
    )
