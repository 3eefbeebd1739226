"""Turn encoded bytes of an unknown sender into an upright RGB image.

Runs inside a decode worker. Limits are checked on the header, before any pixel is decoded. ICC
profiles are ignored, as the published InternVL preprocessing ignores them. Whatever Pillow raises
becomes one of our errors with a fixed phrase: its own text can hold addresses and paths.
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

__all__ = ["DecodeLimits", "VideoLimits", "decode_image", "read_size", "size_complaint"]

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
    """How large and how long an image may be, by its header."""

    max_pixels: int
    max_side_px: int
    max_aspect_ratio: float


@dataclass(frozen=True, slots=True)
class VideoLimits(DecodeLimits):
    """How large a frame of a video may be, and how long a video in seconds."""

    max_duration_s: float


def decode_image(data: bytes, limits: DecodeLimits) -> Image.Image:
    """The first frame as RGB, 8 bit, EXIF orientation applied, transparency on white.

    Raises:
        ImageTooLargeError: The header states more pixels, a longer side or a more extreme shape than
            the limits allow.
        ImageDecodeError: The bytes are of another format, truncated or corrupt.
    """
    with _opened(data, limits) as image:
        _check_end(data, image)
        image.load()
        transpose = _TRANSPOSE.get(_orientation(image))
        rgb = _to_rgb(image)
        return rgb if transpose is None else rgb.transpose(transpose)


def read_size(data: bytes, limits: DecodeLimits) -> tuple[int, int]:
    """Width and height of the upright image, from its header. Raises like `decode_image`."""
    with _opened(data, limits) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


@contextmanager
def _opened(data: bytes, limits: DecodeLimits) -> Iterator[Image.Image]:
    """The image with its header read and judged; errors from within come out as ours."""
    # Other libraries change these for the whole process, so they are set each time.
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
    except Exception:  # noqa: BLE001 - Pillow raises whatever a parser stumbles over, e.g. ValueError
        raise ImageDecodeError("The image is truncated or corrupt.") from None


def _too_many_pixels(limits: DecodeLimits) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"The image has more than {limits.max_pixels} pixels, the limit (media.max_image_pixels)."
    )


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    complaint = size_complaint(width, height, limits)
    if complaint is not None:
        raise ImageTooLargeError(f"The image {complaint}")


def size_complaint(width: int, height: int, limits: DecodeLimits) -> str | None:
    """What is wrong with a picture of this size, as the rest of a sentence; None if nothing is."""
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
    """Refuse a file that was cut behind its last pixel, which Pillow does not notice.

    A JPEG's end marker cannot occur inside its entropy-coded scans, where the file now stands.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        assert image.fp is not None
        is_whole = data.find(JPEG_END, image.fp.tell()) >= 0
    else:
        is_whole = image.format != "PNG" or PNG_END in data
    if not is_whole:
        raise ImageDecodeError("The image is truncated or corrupt.")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - broken metadata does not make a picture unusable
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
    """Scale 16-bit grey to 8 bit, to the nearest level; Pillow's own conversion clips."""
    wide = np.asarray(image)
    grey = ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
