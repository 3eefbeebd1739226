"""A name for the pixels of an image or a frame that costs no pass over the pixels."""

import hashlib
import json

from internvl_server.media.encoded import EncodedMedia

__all__ = ["fingerprint", "frame_fingerprints"]

# Raise it with any change of decoding, tiling or normalisation: engines keep what they computed for a
# fingerprint.
_PREPROCESSING_VERSION = 1


def fingerprint(image: EncodedMedia, grid: tuple[int, int], tile_px: int) -> bytes:
    """What the pixels follow from: the encoded image and how it was cut.

    The same picture sent in another encoding, or once inline and once by address, has another name: that
    costs a cache hit, never a wrong one.

    Args:
        image: The encoded image; base64 is hashed as it came.
        grid: (columns, rows) it was cut into.
        tile_px: Side of a tile in pixels.

    Returns:
        32 bytes.
    """
    return _name(_digest(image), image, *grid, tile_px)


def frame_fingerprints(video: EncodedMedia, num_frames: int, tile_px: int) -> tuple[bytes, ...]:
    """As `fingerprint`, for each of the frames that are taken from a video."""
    digest = _digest(video)
    return tuple(
        _name(digest, video, "frame", index, num_frames, tile_px) for index in range(num_frames)
    )


def _digest(media: EncodedMedia) -> bytes:
    data = media.data.encode("ascii") if isinstance(media.data, str) else media.data
    return hashlib.sha256(data).digest()


def _name(digest: bytes, media: EncodedMedia, *how: int | str) -> bytes:
    is_base64 = isinstance(media.data, str)
    text = json.dumps([_PREPROCESSING_VERSION, is_base64, *how])
    return hashlib.sha256(text.encode() + b"\0" + digest).digest()
