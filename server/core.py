"""The nouns of the system: what one stage of a request hands to the next.

Each type is named for what has been established when it exists: a `Conversation` is valid and in our
words, an `ImageTiles` is decoded and cut, a `Prompt` fits the context. They know no HTTP, no files and
no engine; every stage imports them and they import nothing of ours.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Content",
    "Conversation",
    "Detail",
    "FinishReason",
    "GenerateRequest",
    "Guide",
    "ImageReference",
    "ImageSpan",
    "ImageTiles",
    "Message",
    "PixelValues",
    "Prompt",
    "Role",
    "SamplingParams",
    "TextDelta",
    "TextPart",
    "TokenDelta",
    "TokenLogprobs",
    "Usage",
]

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length"]
PixelValues: TypeAlias = npt.NDArray[np.float32]


class Detail(StrEnum):
    """How closely an image is looked at: the wire's `detail`."""

    LOW = "low"
    AUTO = "auto"
    HIGH = "high"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Literal text of a message; never holds control tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Where an image is to be had, and how closely to look at it.

    `url` is a `data:` or http(s) URL. `param` is the JSON path of the part in the request, for errors.
    `max_tiles`, when given, overrides what `detail` stands for.
    """

    url: str
    detail: Detail
    max_tiles: int | None
    param: str


Content: TypeAlias = tuple[TextPart | ImageReference, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the parts are in the order the user gave them."""

    role: Role
    content: Content

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """The message's images, in order."""
        return tuple(part for part in self.content if isinstance(part, ImageReference))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A validated list of messages, oldest first."""

    messages: tuple[Message, ...]

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """Every image of every message, in order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def num_text_chars(self) -> int:
        """Characters of literal text in all messages."""
        return sum(len(p.text) for m in self.messages for p in m.content if isinstance(p, TextPart))


@dataclass(frozen=True, slots=True)
class ImageTiles:
    """One image cut into tiles.

    `pixels` is uint8, (num_tiles, tile_px, tile_px, 3), RGB, row-major, the thumbnail last when there is
    one. `grid` is (columns, rows) without the thumbnail. `size` is the image's (width, height) in pixels
    after its EXIF orientation was applied. `fingerprint` is equal only for equal pixels: SHA-256 of the
    encoded image and of how it was cut, 32 bytes; empty when nobody took it.
    """

    pixels: npt.NDArray[np.uint8]
    grid: tuple[int, int]
    size: tuple[int, int]
    fingerprint: bytes = b""

    @property
    def num_tiles(self) -> int:
        """Tiles including the thumbnail."""
        return len(self.pixels)


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where one image stands in the prompt.

    `offset` is the index of its first image token in `prompt_token_ids`; `num_image_tokens` follow each
    other from there. `fingerprint` is its tiles'.
    """

    offset: int
    num_tiles: int
    num_image_tokens: int
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids that fit the model's context, and the tiles its image tokens stand for.

    `images` and `tiles` are in prompt order, one entry an image.
    """

    token_ids: tuple[int, ...]
    images: tuple[ImageSpan, ...] = ()
    tiles: tuple[ImageTiles, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Prompt tokens, image tokens included."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Guide:
    """What every token of an answer must keep to.

    `source` is JSON text for a `json_schema`, a pattern for a `regex`, and GBNF rules for a `grammar`.
    """

    kind: Literal["json_schema", "regex", "grammar"]
    source: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop.

    A temperature of 0 is greedy. `top_k` 0 means no limit. `seed` None asks for a fresh one.
    `stop` holds strings matched on text; `max_tokens` None means what the server's settings say.
    `num_logprobs` None asks for no log probabilities, 0 for those of the chosen tokens, n for those of the
    n likeliest as well.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What an engine is asked: tokens and pixels in, at most `max_tokens` tokens out.

    `pixel_values` is float32, (total tiles, 3, tile_px, tile_px), normalised, the images' tiles one after
    another in prompt order; None for a text prompt. `images` tells which image tokens they belong to.
    The engine ends a request after any id of `stop_token_ids`.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int]
    images: tuple[ImageSpan, ...] = ()
    pixel_values: PixelValues | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log probability of a chosen token, and of the likeliest at its place, likeliest first.

    `top` holds pairs of token id and log probability.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """Newly generated token ids, in order; `finish_reason` is set on the last delta only.

    A stop token, where one ended the request, is the last id. `logprobs`, when asked for, has one entry
    for each id.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. Image tokens are part of the prompt's."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that is certain: whole characters, no part of a stop string.

    `finish_reason` and `usage` are set on the last delta only.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
