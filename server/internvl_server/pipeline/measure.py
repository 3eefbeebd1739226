"""What a request would take of the context, without an engine: counts, and the tokens themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

from internvl_server.core import Conversation, ImageMeasure, ImageUsage, Usage
from internvl_server.errors import InvalidRequestError
from internvl_server.media.preparer import MediaPreparer
from internvl_server.pipeline.tokenization import tokenize_conversation, tokenize_raw
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton
from internvl_server.prompt.tokenizer import PromptTokenizer
from internvl_server.settings import LimitSettings

__all__ = ["Measurement", "PromptCounter"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a prompt takes, and whether it fits.

    `images` are in request order. `max_tokens` is what the answer is promised, or would be.
    """

    usage: Usage
    images: tuple[ImageMeasure, ...]
    max_model_len: int
    max_tokens: int
    fits: bool


class PromptCounter:
    """Measures conversations as `Pipeline.prepare` would build them. Works without an engine.

    Args:
        media: Reads the sizes of images.
        builder: Writes prompts.
        tokenizer: The builder's.
        limits: The default length of an answer.
    """

    def __init__(
        self,
        *,
        media: MediaPreparer,
        builder: PromptBuilder,
        tokenizer: PromptTokenizer,
        limits: LimitSettings,
    ) -> None:
        self._media = media
        self._builder = builder
        self._tokenizer = tokenizer
        self._default = limits.default_max_tokens

    async def measure(self, conversation: Conversation, max_tokens: int | None) -> Measurement:
        """Count the tokens of a conversation, from the headers of its images.

        Args:
            conversation: What would be answered.
            max_tokens: The request's own limit of the answer.

        Raises:
            InvalidRequestError: An image or the order of messages cannot be used.
            ContextLengthExceededError: The text is too long to be looked at.
        """
        skeleton, images = await self._look_at(conversation, max_tokens)
        per_tile = self._builder.num_tokens_per_tile
        num_image_tokens = sum(image.num_tiles for image in images) * per_tile
        num_prompt_tokens = skeleton.num_tokens + num_image_tokens
        promised = self._builder.fit_max_tokens(num_prompt_tokens, max_tokens, self._default)
        room = self._room(skeleton, max_tokens)
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
            max_tokens=promised or max_tokens or self._default,
            fits=promised is not None and (not images or num_image_tokens <= room),
        )

    async def tokens(self, conversation: Conversation) -> tuple[int, ...]:
        """The prompt's token ids; raises like `measure`."""
        skeleton, images = await self._look_at(conversation, None)
        return self._builder.fill(skeleton, [(i.num_tiles, b"") for i in images]).token_ids

    async def text_tokens(self, text: str) -> tuple[int, ...]:
        """The ids of literal text, in which nothing is a control token.

        Raises:
            ContextLengthExceededError: The text is too long to be looked at.
        """
        return (await tokenize_raw(self._builder, text)).token_ids

    def with_special_tokens(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """With those the checkpoint's own tokenizer puts around a text; prompts served here have none."""
        before, after = self._tokenizer.affixes
        return (*before, *token_ids, *after)

    def token_strs(self, token_ids: Sequence[int]) -> list[str]:
        """The text of each id by itself; part of a character is U+FFFD. CPU-bound for many ids."""
        return [self._tokenizer.bytes_of(i).decode("utf-8", "replace") for i in token_ids]

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of ids together, special tokens by name. CPU-bound for many ids.

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

    async def _look_at(
        self, conversation: Conversation, max_tokens: int | None
    ) -> tuple[PromptSkeleton, tuple[ImageMeasure, ...]]:
        self._builder.check_length_of_text(conversation)
        skeleton = await tokenize_conversation(self._builder, conversation)
        images = await self._media.measure(
            conversation.media_parts, max_image_tokens=self._room(skeleton, max_tokens)
        )
        return skeleton, images

    def _room(self, skeleton: PromptSkeleton, max_tokens: int | None) -> int:
        return self._builder.max_image_tokens(skeleton, max_tokens, self._default)
