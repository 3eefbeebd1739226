"""Counts and lists the tokens of a prompt, without an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from internvl_server.concurrency.offload import MAX_COPIED_IDS, offload
from internvl_server.core import Conversation, ImageMeasure, ImageUsage, SamplingParams, Usage
from internvl_server.errors import InvalidRequestError
from internvl_server.media.encoded import Reservation
from internvl_server.media.preparer import MediaPreparer
from internvl_server.pipeline.budgets import Budgets
from internvl_server.pipeline.lengths import Lengths, fewer_tiles_warnings
from internvl_server.pipeline.prompts import tokenize_conversation, tokenize_raw
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton
from internvl_server.prompt.tokenizer import PromptTokenizer

__all__ = ["Measurement", "PromptCounter"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The tokens of a prompt, and whether it fits the context.

    `images` are in request order. `max_tokens` is the most tokens that the answer may have. `warnings` are
    as in `Prompt`.
    """

    usage: Usage
    images: tuple[ImageMeasure, ...]
    max_model_len: int
    max_tokens: int
    fits: bool
    warnings: tuple[str, ...] = ()


class PromptCounter:
    """Measures prompts as `Pipeline.prepare` would build them. Works without an engine.

    Args:
        media: Reads the sizes of images.
        builder: Writes prompts.
        tokenizer: The builder's.
        lengths: Says how many tokens images and answers may have.
        budgets: Memory for the images.
    """

    def __init__(
        self,
        *,
        media: MediaPreparer,
        builder: PromptBuilder,
        tokenizer: PromptTokenizer,
        lengths: Lengths,
        budgets: Budgets,
    ) -> None:
        self._media = media
        self._budgets = budgets
        self._builder = builder
        self._tokenizer = tokenizer
        self._lengths = lengths

    async def measure(self, conversation: Conversation, sampling: SamplingParams) -> Measurement:
        """Count the tokens of a conversation from the headers of its images.

        Args:
            conversation: What would be answered.
            sampling: Limits the answer's length.

        Raises:
            InvalidRequestError: An image or the order of messages cannot be used.
            ContextLengthExceededError: The text cannot fit, whatever its tokens are.
        """
        skeleton, images = await self._measure_images(conversation, sampling)
        per_tile = self._builder.num_tokens_per_tile
        num_image_tokens = sum(image.num_tiles for image in images) * per_tile
        num_prompt_tokens = skeleton.num_tokens + num_image_tokens
        default = self._lengths.default_max_tokens(sampling)
        requested = sampling.max_tokens
        answer_tokens = self._builder.fit_max_tokens(num_prompt_tokens, requested, default)
        usage = Usage(
            num_prompt_tokens=num_prompt_tokens,
            num_completion_tokens=0,
            num_image_tokens=num_image_tokens,
            images=tuple(ImageUsage(i.num_tiles, i.num_tiles * per_tile) for i in images),
        )
        return Measurement(
            usage=usage,
            images=images,
            max_model_len=self._builder.max_model_len,
            max_tokens=answer_tokens or requested or default,
            fits=answer_tokens is not None,
            warnings=skeleton.warnings + fewer_tiles_warnings(images),
        )

    async def tokens(self, conversation: Conversation) -> tuple[int, ...]:
        """The prompt's token ids; raises like `measure`."""
        skeleton, images = await self._measure_images(conversation, SamplingParams())
        fill = partial(self._builder.fill, skeleton, [(i.num_tiles, b"") for i in images])
        prompt = await offload(fill, size=skeleton.num_tokens, limit=MAX_COPIED_IDS)
        return prompt.token_ids

    async def text_tokens(self, text: str) -> tuple[int, ...]:
        """The ids of literal text as a prompt, in which nothing is a control token.

        Raises:
            ContextLengthExceededError: The text cannot fit, whatever its tokens are.
        """
        return (await tokenize_raw(self._builder, text)).token_ids

    def with_special_tokens(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """A prompt with the special tokens that the checkpoint's tokenizer puts around a text."""
        before, after = self._tokenizer.affixes
        return (*before, *self.without_special_tokens(token_ids), *after)

    def without_special_tokens(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """A prompt without the ids that every prompt begins with."""
        begin = self._tokenizer.begin_ids
        has_begin = tuple(token_ids[: len(begin)]) == begin
        return tuple(token_ids[len(begin) :] if has_begin else token_ids)

    def token_strs(self, token_ids: Sequence[int]) -> list[str]:
        """The text of each id; part of a character is U+FFFD. CPU-bound for many ids."""
        return [
            self._tokenizer.vocabulary.bytes_of(i).decode("utf-8", "replace") for i in token_ids
        ]

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of all ids, with the names of special tokens. CPU-bound for many ids.

        Raises:
            InvalidRequestError: An id is not in the vocabulary.
        """
        size = self._tokenizer.vocab_size
        for index, token_id in enumerate(token_ids):
            if not 0 <= token_id < size:
                raise InvalidRequestError(
                    f"'tokens[{index}]' is {token_id}; this model's ids end at {size - 1}.",
                    param=f"tokens[{index}]",
                )
        return self._tokenizer.text_of(token_ids)

    async def _measure_images(
        self, conversation: Conversation, sampling: SamplingParams
    ) -> tuple[PromptSkeleton, tuple[ImageMeasure, ...]]:
        skeleton = await tokenize_conversation(self._builder, conversation)
        parts = skeleton.media_parts
        if not parts:
            return skeleton, ()
        budget = self._lengths.image_budget(conversation, skeleton, sampling)
        self._budgets.check_memory_for_media()
        most = self._media.demand(parts)
        with await self._budgets.media.reserve(most.num_bytes, 0, cost=len(parts)) as share:
            images = await self._media.measure(parts, budget=budget, reservation=Reservation(share))
        return skeleton, images
