"""Decode an image from an unknown sender to upright RGB.

Runs in a decode worker. Limits are checked on the header, before any pixel is decoded. ICC profiles are
ignored, as the published InternVL preprocessing ignores them. An exception of Pillow becomes an
`ImageError` with a fixed message, because Pillow's own text can contain addresses and paths.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import (
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from internvl_server.errors import ImageDecodeError, ImageError, ImageTooLargeError

__all__ = ["DecodeLimits", "VideoLimits", "decode_image", "read_size", "size_problem"]

PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, GifImagePlugin)  # imported to register
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
JPEG_END = b"\xff\xd9"
PNG_END = b"IEND\xaeB`\x82"

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
    with _opened(data, limits) as image:
        _check_end(data, image)
        image.load()
        transpose = _TRANSPOSE.get(_orientation(image))
        rgb = _to_rgb(image)
        return rgb if transpose is None else rgb.transpose(transpose)


def read_size(data: bytes, limits: DecodeLimits) -> tuple[int, int]:
    """Width and height of the upright image, from its header. Raises the errors of `decode_image`."""
    with _opened(data, limits) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


@contextmanager
def _opened(data: bytes, limits: DecodeLimits) -> Iterator[Image.Image]:
    """Open an image and check its header; exceptions in the block become `ImageError`s."""
    # Set each time, because other libraries change them for the whole process.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size, limits)
                yield image
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_many_pixels(limits) from None
    except UnidentifiedImageError:
        raise ImageDecodeError("The image is not a valid JPEG, PNG, WebP or GIF file.") from None
    except Exception:  # noqa: BLE001 - Pillow's parsers raise many classes, such as ValueError
        raise ImageDecodeError("The image is truncated or corrupt.") from None


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


def _check_end(data: bytes, image: Image.Image) -> None:
    """Refuse a file that was cut off after its last pixel, which Pillow does not notice.

    The end marker of a JPEG cannot occur inside its entropy-coded scans, where the file position now is.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        assert image.fp is not None
        is_whole = data.find(JPEG_END, image.fp.tell()) >= 0
    else:
        is_whole = image.format != "PNG" or PNG_END in data
    if not is_whole:
        raise ImageDecodeError("The image is truncated or corrupt.")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if it is missing or cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - broken metadata does not make an image unusable
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSE else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bit, rounded; Pillow's own conversion clips."""
    wide = np.asarray(image)
    grey = ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
