"""Cache keys: equal for the same file and tiling, different otherwise."""

import base64

from internvl_server.core import PixelType
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.fingerprint import fingerprint
from internvl_server.media.pixels.tiler import PixelFormat

DATA = b"bytes of an image"
IMAGE = EncodedMedia.of(DATA)
FORM = PixelFormat()


def test_the_key_depends_on_the_file_and_the_tiling():
    keys = {
        fingerprint(IMAGE, (2, 3), 448, FORM),
        fingerprint(IMAGE, (3, 2), 448, FORM),
        fingerprint(IMAGE, (2, 3), 56, FORM),
        fingerprint(IMAGE, (2, 3), 448, PixelFormat(is_fast=True)),
        fingerprint(IMAGE, (2, 3), 448, PixelFormat(PixelType.FLOAT16)),
        fingerprint(EncodedMedia.of(b"bytes of another"), (2, 3), 448, FORM),
        fingerprint(EncodedMedia.of(base64.b64encode(DATA), is_base64=True), (2, 3), 448, FORM),
    }
    assert len(keys) == 7
    assert {len(key) for key in keys} == {32}
    assert fingerprint(EncodedMedia.of(DATA), (2, 3), 448, FORM) in keys


def test_binary_data_and_base64_text_of_the_same_characters_differ():
    assert fingerprint(EncodedMedia.of(b"QUJD"), (1, 1), 448, FORM) != fingerprint(
        EncodedMedia.of(b"QUJD", is_base64=True), (1, 1), 448, FORM
    )
