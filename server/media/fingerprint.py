"""A name for an image's pixels that costs no pass over the pixels."""

import hashlib
import json

from server.media.worker_process import EncodedImage

__all__ = ["fingerprint"]

# Raise it with any change of decoding, tiling or normalisation: engines keep what they computed for a
# fingerprint.
_PREPROCESSING_VERSION = 1


def fingerprint(image: EncodedImage, grid: tuple[int, int], tile_px: int) -> bytes:
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
    is_base64 = isinstance(image.data, str)
    data = image.data.encode("ascii") if isinstance(image.data, str) else image.data
    how = json.dumps([_PREPROCESSING_VERSION, is_base64, *grid, tile_px]).encode()
    return hashlib.sha256(how + b"\0" + hashlib.sha256(data).digest()).digest()
