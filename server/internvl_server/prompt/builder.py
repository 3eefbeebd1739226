"""Builds a `Prompt` from a conversation and its tiles: token ids with image tokens in place of images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core import (
    AnswerStart,
    Conversation,
    ImageSpan,
    ImageTiles,
    MediaPart,
    Prompt,
    Thinking,
)
from internvl_server.errors import (
    ContextLengthExceededError,
    Field,
    InvalidRequestError,
    StartupError,
)
from internvl_server.prompt.checkpoint.template import load_checkpoint_template
from internvl_server.prompt.history import order_results
from internvl_server.prompt.placement import place_media
from internvl_server.prompt.segments import Control, ImagePlaceholder, Segment
from internvl_server.prompt.template import InternVL25Template, Template
from internvl_server.prompt.thinking import (
    ThinkingMode,
    answer_start,
    with_thinking_text,
    without_reasoning,
)
from internvl_server.prompt.tokenizer import PromptTokenizer

__all__ = ["PromptBuilder", "PromptSkeleton", "select_template"]

# A text with more characters per token of context is refused before it is tokenised: real text has about
# four; the longest tokens, runs of spaces, have about this many.
_MAX_CHARS_PER_TOKEN = 128


@dataclass(frozen=True, slots=True)
class PromptSkeleton:
    """A tokenised prompt with placeholders for the tokens of images.

    `media_parts` are the images and videos in the order of the placeholders. `warnings` and `answer_start`
    are as in `Prompt`.
    """

    pieces: tuple[list[int] | ImagePlaceholder, ...]
    media_parts: tuple[MediaPart, ...] = ()
    warnings: tuple[str, ...] = ()
    answer_start: AnswerStart = "text"

    @property
    def num_tokens(self) -> int:
        """Number of text tokens and of the two markers around each image."""
        return sum(
            2 if isinstance(piece, ImagePlaceholder) else len(piece) for piece in self.pieces
        )


class PromptBuilder:
    """Renders and tokenises prompts for one model, and checks their length.

    Args:
        checkpoint: The model's configuration.
        tokenizer: The model's tokenizer.
        template: Renders conversations.
        max_model_len: Most tokens of prompt and answer that the engine supports.
        thinking: Whether answers may begin with reasoning.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: PromptTokenizer,
        template: Template,
        *,
        max_model_len: int,
        thinking: ThinkingMode = ThinkingMode(),  # noqa: B008  (immutable)
    ) -> None:
        self._thinking = thinking
        self._tokenizer = tokenizer
        self._template = template
        self.num_tokens_per_tile = checkpoint.num_tokens_per_tile
        self.max_model_len = max_model_len
        self._image_token_id = checkpoint.image_token_id
        self.stop_token_ids = checkpoint.stop_token_ids
        self._image_start_id = tokenizer.control_id("<img>")
        self._image_end_id = tokenizer.control_id("</img>")

    def check_length_of_text(self, conversation: Conversation) -> None:
        """Refuse a text that is too long before it is tokenised.

        Raises:
            ContextLengthExceededError: The text cannot fit, whatever its tokens are.
        """
        self._check_num_chars(conversation.num_text_chars)

    def _check_num_chars(self, num_chars: int) -> None:
        limit = _MAX_CHARS_PER_TOKEN * self.max_model_len
        if num_chars > limit:
            raise ContextLengthExceededError(
                f"This model's maximum context length is {self.max_model_len} tokens. The prompt has "
                f"{num_chars} characters; more than {limit} cannot fit. Shorten it.",
                param=Field.PROMPT,
            )

    def skeleton(self, conversation: Conversation) -> PromptSkeleton:
        """Tokenise all of the prompt but its images. CPU-bound: call it off the event loop for long texts."""
        thinking = conversation.thinking
        conversation, unthought = self._with_thinking(order_results(conversation))
        conversation, warnings = place_media(conversation)
        segments = self._template.render(conversation)
        pieces: list[list[int] | ImagePlaceholder] = []
        begin, text = list(self._tokenizer.begin_ids), ""
        for segment in [*segments, ImagePlaceholder(-1)]:
            piece = self._resolve(segment)
            if isinstance(piece, str):
                text += piece  # adjacent texts are tokenised together, as in the reference
                continue
            pieces.append(self._tokenizer.encode_text(text, is_first=not pieces) if text else [])
            text = ""
            pieces.append(piece)
        # A checkpoint's own template may have written what every prompt begins with.
        head = [i for piece in pieces[:2] if isinstance(piece, list) for i in piece]
        if begin and head[: len(begin)] != begin:
            pieces.insert(0, begin)
        return PromptSkeleton(
            tuple(pieces[:-1]),
            conversation.media_parts,
            unthought + warnings,
            answer_start(segments, thinking) if self._thinking.can_think else "text",
        )

    def _with_thinking(self, conversation: Conversation) -> tuple[Conversation, tuple[str, ...]]:
        """The conversation that is rendered, and sentences about reasoning that it cannot have."""
        is_on, warnings = self._thinking.resolve(conversation.thinking)
        if not self._thinking.can_think:
            return conversation, warnings
        conversation = without_reasoning(conversation)
        if self._template.has_thinking_switch:
            return replace(conversation, thinking=Thinking(is_on)), warnings
        return with_thinking_text(conversation) if is_on else conversation, warnings

    def build(self, skeleton: PromptSkeleton, tiles: Sequence[ImageTiles]) -> Prompt:
        """Replace each placeholder by the tokens of its image.

        Args:
            skeleton: The tokenised conversation.
            tiles: One entry for each image and frame of the skeleton's `media_parts`, in order.
        """
        prompt = self.fill(skeleton, [(image.num_tiles, image.fingerprint) for image in tiles])
        return replace(prompt, tiles=tuple(tiles)) if tiles else prompt

    def fill(self, skeleton: PromptSkeleton, images: Sequence[tuple[int, bytes]]) -> Prompt:
        """Like `build`, from numbers of tiles; the prompt has no tiles.

        Args:
            skeleton: The tokenised conversation.
            images: Number of tiles and fingerprint of each image and frame, in order.
        """
        token_ids: list[int] = []
        spans: list[ImageSpan] = []
        for piece in skeleton.pieces:
            if isinstance(piece, ImagePlaceholder):
                num_tiles, fingerprint = images[piece.index]
                num_image_tokens = num_tiles * self.num_tokens_per_tile
                token_ids.append(self._image_start_id)
                spans.append(ImageSpan(len(token_ids), num_tiles, num_image_tokens, fingerprint))
                token_ids += [self._image_token_id] * num_image_tokens
                token_ids.append(self._image_end_id)
            else:
                token_ids += piece
        return Prompt(
            tuple(token_ids),
            tuple(spans),
            warnings=skeleton.warnings,
            answer_start=skeleton.answer_start,
        )

    def build_raw(self, raw: str | Sequence[int]) -> Prompt:
        """A prompt without a template. CPU-bound for long texts.

        Args:
            raw: Literal text, in which nothing is a control token and before which the ids are written that
                every prompt begins with; or token ids, which are taken as they are.

        Raises:
            InvalidRequestError: An id is outside the vocabulary or is the image token.
            ContextLengthExceededError: The text cannot fit, whatever its tokens are.
        """
        if isinstance(raw, str):
            self._check_num_chars(len(raw))
            ids = self._tokenizer.encode_text(raw, is_first=True)
            return Prompt((*self._tokenizer.begin_ids, *ids))
        if len(raw) >= self.max_model_len:
            raise ContextLengthExceededError(
                f"This model's maximum context length is {self.max_model_len} tokens. The prompt has "
                f"{len(raw)} tokens. Shorten it.",
                param=Field.PROMPT,
            )
        for index, token_id in enumerate(raw):
            if not 0 <= token_id < self._tokenizer.vocab_size or token_id == self._image_token_id:
                raise InvalidRequestError(
                    f"The prompt has the token {token_id} at index {index}, which is not allowed. Ids are "
                    f"0 to {self._tokenizer.vocab_size - 1} without the image token.",
                    param=Field.PROMPT,
                )
        return Prompt(tuple(raw))

    def resolve_max_tokens(self, prompt: Prompt, requested: int | None, default: int) -> int:
        """The number of tokens the answer may have.

        Args:
            prompt: The prompt with its images.
            requested: The request's limit; it is applied as it is or refused.
            default: The limit if the request has none; it is lowered to the tokens that are left.

        Raises:
            ContextLengthExceededError: The prompt, or the prompt and `requested`, do not fit.
        """
        max_tokens = self.fit_max_tokens(prompt.num_tokens, requested, default)
        if max_tokens is None:
            raise self._too_long(prompt, requested)
        return max_tokens

    def fit_max_tokens(
        self, num_prompt_tokens: int, requested: int | None, default: int
    ) -> int | None:
        """Like `resolve_max_tokens`, but returns None if the request does not fit."""
        room = self.max_model_len - num_prompt_tokens
        if room < 1 or (requested is not None and requested > room):
            return None
        return min(default, room) if requested is None else requested

    def _resolve(self, segment: Segment) -> str | list[int] | ImagePlaceholder:
        if not isinstance(segment, Control):
            return segment
        if segment.is_optional and segment.name not in self._tokenizer.control_ids:
            return segment.name
        return [self._tokenizer.control_id(segment.name)]

    def _too_long(self, prompt: Prompt, requested: int | None) -> ContextLengthExceededError:
        room = self.max_model_len - prompt.num_tokens
        num_image_tokens = sum(span.num_image_tokens for span in prompt.images)
        image_note = f" ({num_image_tokens} of them for images)" if num_image_tokens else ""
        problem = (
            f"This model's maximum context length is {self.max_model_len} tokens. The prompt has "
            f"{prompt.num_tokens} tokens{image_note}"
        )
        less = ", or request less image detail ('detail')." if num_image_tokens else "."
        link = ", " if num_image_tokens else " or "
        if requested is None or room < 1:
            return ContextLengthExceededError(f"{problem}; shorten it{less}", param=Field.PROMPT)
        return ContextLengthExceededError(
            f"{problem} and you asked for {requested} tokens of answer; shorten the prompt{link}lower ",
            Field.MAX_TOKENS,
            f" to {room}{less}",
            param=Field.PROMPT,
        )


def select_template(checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> Template:
    """The template that the settings or the checkpoint name.

    Raises:
        StartupError: The name is unknown, or the checkpoint has no template although it is requested.
    """
    if checkpoint.template == "checkpoint":
        return load_checkpoint_template(checkpoint.path, tokenizer.control_pattern)
    if checkpoint.template == InternVL25Template.name:
        return InternVL25Template()
    raise StartupError(
        f"The checkpoint's config names the template {checkpoint.template!r}, which is unknown. "
        "Set model.template to 'internvl2_5', or to 'checkpoint' for the checkpoint's chat template."
    )
