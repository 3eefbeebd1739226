"""The input of the model: tiles of images, and token ids with positions for them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "AnswerStart",
    "ImageMeasure",
    "ImageSpan",
    "ImageTiles",
    "PixelType",
    "PixelValues",
    "Prompt",
]

AnswerStart: TypeAlias = Literal["text", "anything", "reasoning"]
"""What an answer begins with after its prompt: text only; reasoning or text; the rest of reasoning."""
PixelValues: TypeAlias = npt.NDArray[np.float32 | np.float16 | np.uint16]
"""The tiles of one image, normalised: (num_tiles, 3, tile_px, tile_px), stored as a `PixelType` says."""


class PixelType(StrEnum):
    """The type of pixel values; an engine takes one of them."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def storage(self) -> np.dtype[np.float32 | np.float16 | np.uint16]:
        """The type of an array of such values. numpy has no bfloat16, whose bits are stored as uint16."""
        return np.dtype("uint16" if self is PixelType.BFLOAT16 else self.value)


@dataclass(frozen=True, slots=True)
class ImageTiles:
    """One image cut into tiles, or one frame of a video as one tile.

    `pixels` are its `PixelValues`: the tiles in row-major order, with the thumbnail last if there is one.
    Nothing may write to them, because requests share them. `grid` is (columns, rows) without the thumbnail.
    `size` is the image's (width, height) in pixels after its EXIF orientation was applied. `fingerprint` is
    equal only for equal pixels: SHA-256 of the encoded image or video and of its tiling, 32 bytes; empty if
    not computed. `num_requested_tiles` is the number it would have if all images had what they request; 0 if
    that is not known.
    """

    pixels: PixelValues
    grid: tuple[int, int]
    size: tuple[int, int]
    fingerprint: bytes = b""
    num_requested_tiles: int = 0

    @property
    def num_tiles(self) -> int:
        """Tiles including the thumbnail."""
        return len(self.pixels)


@dataclass(frozen=True, slots=True)
class ImageMeasure:
    """The tiling of an image as known from its header; `num_tiles` includes the thumbnail.

    `size` is the upright image's (width, height) in pixels. `num_requested_tiles` is as in `ImageTiles`.
    `grid` is the tiles' (columns, rows), without the thumbnail.
    """

    size: tuple[int, int]
    num_tiles: int
    num_requested_tiles: int = 0
    grid: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The position of one image, or one frame, in the prompt.

    `offset` is the index of its first image token in `prompt_token_ids`; `num_image_tokens` are
    consecutive from there. `fingerprint` is its tiles'.
    """

    offset: int
    num_tiles: int
    num_image_tokens: int
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids that fit the model's context, and the tiles that its image tokens stand for.

    `images` and `tiles` are in prompt order, one entry for each image or frame. `warnings` are sentences
    about what the prompt does otherwise than the request may expect. `answer_start` is what an answer may
    begin with.
    """

    token_ids: tuple[int, ...]
    images: tuple[ImageSpan, ...] = ()
    tiles: tuple[ImageTiles, ...] = ()
    warnings: tuple[str, ...] = ()
    answer_start: AnswerStart = "text"

    @property
    def num_tokens(self) -> int:
        """Number of prompt tokens, including image tokens."""
        return len(self.token_ids)
