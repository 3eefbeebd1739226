"""Cache keys derived from the encoded bytes and the tiling, without hashing pixels."""

import hashlib
import json

from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.pixels.tiler import PixelFormat

__all__ = ["fingerprint", "frame_fingerprints"]

# Increase it with any change of decoding, tiling or normalisation: engines cache results by fingerprint.
_PREPROCESSING_VERSION = 4


def fingerprint(
    image: EncodedMedia, grid: tuple[int, int], tile_px: int, pixel_format: PixelFormat
) -> bytes:
    """The cache key of an image's pixels.

    Equal keys imply equal pixels. The same image in another encoding has another key, which only costs a
    cache hit.

    Args:
        image: The encoded image.
        grid: (columns, rows) the image was cut into.
        tile_px: Side of a tile in pixels.
        pixel_format: How the pixels were made.

    Returns:
        32 bytes.
    """
    return _key(image, pixel_format, *grid, tile_px)


def frame_fingerprints(
    video: EncodedMedia, num_frames: int, tile_px: int, pixel_format: PixelFormat
) -> tuple[bytes, ...]:
    """The cache key of each of the frames that are sampled from a video."""
    return tuple(
        _key(video, pixel_format, "frame", index, num_frames, tile_px)
        for index in range(num_frames)
    )


def _key(media: EncodedMedia, pixel_format: PixelFormat, *tiling: int | str) -> bytes:
    form = (pixel_format.type, pixel_format.is_fast)
    text = json.dumps([_PREPROCESSING_VERSION, media.is_base64, *form, *tiling])
    return hashlib.sha256(text.encode() + b"\0" + media.digest).digest()
