"""Decode an image from an unknown sender to upright RGB.

Runs in a decode worker. Limits are checked on the header, before any pixel is decoded. ICC profiles are
ignored, as the published InternVL preprocessing ignores them. An exception of Pillow becomes an
`ImageError` with a fixed message, because Pillow's own text can contain addresses and paths.
"""

import errno
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from internvl_server.core import begins_like_video
from internvl_server.errors import ImageDecodeError, ImageError, ImageTooLargeError
from internvl_server.media.decoding import jpeg
from internvl_server.media.decoding.heif_items import is_heic
from internvl_server.media.decoding.png import SIGNATURE, PngFile

if TYPE_CHECKING:
    from internvl_server.media.decoding.heic import HeicImage

__all__ = ["FORMATS", "DecodeLimits", "VideoLimits", "decode_image", "read_size", "size_problem"]

PLUGINS = (  # imported to register
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# The compressions that scanners and cameras use; libtiff's others are rare and less tested.
TIFF_COMPRESSIONS = frozenset(
    {
        "raw",
        "packbits",
        "tiff_lzw",
        "tiff_adobe_deflate",
        "tiff_deflate",
        "tiff_ccitt",
        "group3",
        "group4",
        "jpeg",
    }
)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a worker has one core

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Limits on the size that the header of an image or video states."""

    max_pixels: int
    max_side_px: int
    max_aspect_ratio: float


@dataclass(frozen=True, slots=True)
class VideoLimits(DecodeLimits):
    """Limits on the size of a video's frames and on its duration in seconds."""

    max_duration_s: float


def decode_image(data: bytes, limits: DecodeLimits) -> Image.Image:
    """Decode the first frame to 8-bit RGB, with EXIF orientation applied and transparency on white.

    Raises:
        ImageTooLargeError: The header states more pixels, a longer side or a more extreme aspect ratio
            than the limits allow.
        ImageDecodeError: The format is not supported, or the file is truncated or corrupt.
    """
    if is_heic(data):
        with _as_image_errors(data, limits):
            return _open_heic(data, limits).decode(limits.max_pixels)
    if data.startswith(SIGNATURE):
        return _decode_png(PngFile(data), limits)
    with _opened(data, limits) as image:
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            _load_jpeg(image, data)
        return _upright(image)


def read_size(data: bytes, limits: DecodeLimits) -> tuple[int, int]:
    """Width and height of the upright image, from its header. Raises the errors of `decode_image`."""
    if is_heic(data):
        with _as_image_errors(data, limits):
            return _open_heic(data, limits).size
    if data.startswith(SIGNATURE):
        data = PngFile(data).data
    with _opened(data, limits) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _open_heic(data: bytes, limits: DecodeLimits) -> "HeicImage":
    # Loads FFmpeg, which most workers never need.
    from internvl_server.media.decoding.heic import HeicImage  # noqa: PLC0415

    image = HeicImage.open(data)
    for size in (*image.coded_sizes, image.size):
        _check_size(*size, limits)
    return image


@contextmanager
def _opened(data: bytes, limits: DecodeLimits) -> Iterator[Image.Image]:
    """Open an image and check its header; exceptions in the block become `ImageError`s."""
    # Set each time, because other libraries change them for the whole process.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    if data.startswith(jpeg.START) and jpeg.has_too_long_head(data):
        raise _truncated()
    with _as_image_errors(data, limits), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, limits)
            _check_samples(image)
            yield image


@contextmanager
def _as_image_errors(data: bytes, limits: DecodeLimits) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_many_pixels(limits) from None
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # noqa: BLE001 - Pillow's parsers raise many classes
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError from None
        raise _truncated() from None


def _truncated() -> ImageDecodeError:
    return ImageDecodeError("The image is truncated or corrupt.")


def _unidentified(data: bytes) -> ImageDecodeError:
    if begins_like_video(data):
        return ImageDecodeError(
            "The file is a video; send it in a 'video_url' part of a chat message."
        )
    return ImageDecodeError(
        "The image is not a valid JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC file of a supported kind."
    )


def _too_many_pixels(limits: DecodeLimits) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"The image has more than {limits.max_pixels} pixels, the limit (media.max_image_pixels)."
    )


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    problem = size_problem(width, height, limits)
    if problem is not None:
        raise ImageTooLargeError(f"The image {problem}")


def size_problem(width: int, height: int, limits: DecodeLimits) -> str | None:
    """The predicate of a sentence about an image or video that is too large; None if it is not."""
    if width * height > limits.max_pixels:
        return f"has more than {limits.max_pixels} pixels, the limit (media.max_image_pixels)."
    if max(width, height) > limits.max_side_px:
        return (
            f"is {width}x{height} pixels; the longest side allowed is {limits.max_side_px} "
            "(media.max_image_side_px)."
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        return (
            f"is {width}x{height} pixels; the longest side may be at most "
            f"{limits.max_aspect_ratio:g} times the shortest (media.max_aspect_ratio)."
        )
    return None


def _check_samples(image: Image.Image) -> None:
    if image.mode in ("I", "F"):
        raise ImageDecodeError("The image has signed or 32-bit samples; send it with 8 or 16 bits.")
    if image.format == "TIFF" and image.info.get("compression") not in TIFF_COMPRESSIONS:
        raise ImageDecodeError("The compression of the TIFF file is not supported.")


def _decode_png(png: PngFile, limits: DecodeLimits) -> Image.Image:
    with _opened(png.data, limits) as image:
        try:
            image.load()
        except OSError:  # also raised for a wrong checksum after the last row
            repaired = png.repaired()
            if repaired is None:
                raise
        else:
            # Rows that are not in the data stay zero, and Pillow may not notice.
            if (png.is_interlaced or not _has_last_row(image)) and not png.has_all_pixels():
                raise _truncated()
            return _upright(image)
    with _opened(repaired, limits) as image:
        return _upright(image)


def _has_last_row(image: Image.Image) -> bool:
    width, height = image.size
    return any(image.crop((0, height - 1, width, height)).tobytes())


def _load_jpeg(image: JpegImagePlugin.JpegImageFile, data: bytes) -> None:
    """Decode a JPEG, with or without its end marker, and refuse it if pixels are missing."""
    assert image.fp is not None
    if jpeg.has_too_many_scans(data):
        raise ImageDecodeError(f"The JPEG file has more than {jpeg.MAX_SCANS} scans.")
    may_have_end = data.find(jpeg.END, image.fp.tell()) >= 0
    ImageFile.LOAD_TRUNCATED_IMAGES = not may_have_end  # Pillow then adds the marker
    image.load()
    is_suspect = not may_have_end or jpeg.looks_cut_off(image, data)
    if is_suspect and not jpeg.has_all_pixels(image, data):
        raise _truncated()


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    transpose = _TRANSPOSE.get(_orientation(image))
    rgb = _to_rgb(image)
    return rgb if transpose is None else rgb.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if it is missing or cannot be read."""
    if image.format == "TIFF":  # Pillow applies it, to the size and to the pixels
        return 1
    try:
        # The method of PNG images decodes the whole image.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - broken metadata does not make an image unusable
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSE else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey16_to_rgb(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 12- or 16-bit grey to 8 bit, rounded; Pillow's own conversion clips."""
    wide = np.asarray(image)
    num_bits, white_is_zero = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow leaves the samples as they are
        num_bits = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
        white_is_zero = not image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    highest = (1 << num_bits) - 1
    grey = ((wide.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")
