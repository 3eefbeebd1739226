"""Decode a HEIC file, as phones write it, with FFmpeg's decoder for H.265.

The file is parsed here (`heif_items.py`), and only the coded images are given to FFmpeg. libheif with
libde265 was the alternative; it crashed on one of 2,000 mutated files.
"""

from fractions import Fraction
from typing import Self

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange
from PIL import Image

from internvl_server.errors import ImageDecodeError
from internvl_server.media.decoding.heif_items import Grid, HeifItem, HeifItems

__all__ = ["HeicImage"]

_TURNS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}
# Of ISO/IEC 23091-2, without RGB and those that FFmpeg does not convert; FFmpeg has the same numbers.
_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
_MIRRORS = (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)


class HeicImage:
    """An image in a HEIC file.

    Args:
        items: The items of the file.
        item: The image.

    Raises:
        ImageDecodeError: The image is of a type that is not supported.
        ValueError, LookupError: The file is malformed.
    """

    def __init__(self, items: HeifItems, item: HeifItem) -> None:
        self._items = items
        self._item = item
        self._tiles = [item]
        self._grid = Grid(1, 1, item.size)
        if item.kind == b"grid":
            self._tiles = items.tiles(item)
            self._grid = Grid.parse(items.content(item))
        self._check_tiles()

    @classmethod
    def open(cls, data: bytes) -> Self:
        """The primary image of a file."""
        items = HeifItems(data)
        return cls(items, items.primary)

    @property
    def coded_sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of what is decoded."""
        return (self._grid.size, self._tiles[0].size)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        width, height = self._grid.size
        for name, content in self._item.properties:
            if name == b"clap":
                left, top, right, bottom = _crop_box(content, (width, height))
                width, height = right - left, bottom - top
            elif name == b"irot" and content[0] & 1:
                width, height = height, width
        return width, height

    def decode(self, max_pixels: int) -> Image.Image:
        """Decode to upright 8-bit RGB, with transparency on white.

        Raises:
            ValueError, LookupError, av.FFmpegError: The data is truncated or corrupt.
        """
        image = self._decode_tiles(max_pixels)
        if self._item.alpha is not None:
            alpha = HeicImage(self._items, self._item.alpha)
            if alpha.coded_sizes[0] == image.size:
                white = Image.new("RGB", image.size, "white")
                white.paste(image, mask=alpha._decode_tiles(max_pixels).getchannel(0))
                image = white
        for name, content in self._item.properties:
            if name == b"clap":
                image = image.crop(_crop_box(content, image.size))
            elif name == b"irot" and content[0] & 3:
                image = image.transpose(_TURNS[content[0] & 3])
            elif name == b"imir":
                image = image.transpose(_MIRRORS[content[0] & 1])
        return image

    def _decode_tiles(self, max_pixels: int) -> Image.Image:
        image = Image.new("RGB", self._grid.size)
        width, height = self._tiles[0].size
        for index, tile in enumerate(self._tiles):
            row, column = divmod(index, self._grid.num_columns)
            image.paste(self._decode_tile(tile, max_pixels), (column * width, row * height))
        return image

    def _check_tiles(self) -> None:
        """Check that all tiles have the same size, and that each of them is visible."""
        grid = self._grid
        if any(tile.kind != b"hvc1" for tile in self._tiles):
            raise ImageDecodeError("The HEIC file has an image of a type that is not supported.")
        width, height = self._tiles[0].size
        if not (
            len(self._tiles) == grid.num_rows * grid.num_columns
            and {tile.size for tile in self._tiles} == {(width, height)}
            and (grid.num_columns - 1) * width < grid.size[0] <= grid.num_columns * width
            and (grid.num_rows - 1) * height < grid.size[1] <= grid.num_rows * height
        ):
            raise ValueError

    def _decode_tile(self, tile: HeifItem, max_pixels: int) -> Image.Image:
        context = av.CodecContext.create("hevc", "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = tile.find(b"hvcC")
        context.options = {"max_pixels": str(max_pixels), "err_detect": "explode"}
        context.thread_count = 1
        packet = av.Packet(self._items.content(tile))
        frame = next(iter([*context.decode(packet), *context.decode(None)]))
        if frame.is_corrupt or (frame.width, frame.height) != tile.size:
            raise ValueError
        for name, content in (*self._item.properties, *tile.properties):
            if name == b"colr" and content.startswith(b"nclx"):
                _set_colours(frame, content)
        return Image.fromarray(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))


def _set_colours(frame: av.VideoFrame, nclx: bytes) -> None:
    """Set how colours are coded: what the file says overrides the coded image."""
    matrix = int.from_bytes(nclx[8:10])
    if matrix in _MATRICES:
        frame.colorspace = matrix
    frame.color_range = ColorRange.JPEG if nclx[10] >> 7 else ColorRange.MPEG


def _crop_box(clap: bytes, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a clean aperture, whose offset is that of its centre."""
    numbers = np.frombuffer(clap, ">i4", count=8).tolist()
    width, height, left, top = (
        Fraction(numbers[n], numbers[n + 1]) if numbers[n + 1] else Fraction(0)
        for n in (0, 2, 4, 6)
    )
    left += (size[0] - width) / 2
    top += (size[1] - height) / 2
    box = (round(left), round(top), round(left + width), round(top + height))
    if not (0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]):
        raise ValueError
    return box
