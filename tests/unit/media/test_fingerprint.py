"""The name of an image's pixels: the same for the same pixels, another for any others."""

import base64

from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.fingerprint import fingerprint

PICTURE = EncodedMedia(b"bytes of a picture")


def test_it_names_the_bytes_and_the_cut():
    names = {
        fingerprint(PICTURE, (2, 3), 448),
        fingerprint(PICTURE, (3, 2), 448),
        fingerprint(PICTURE, (2, 3), 56),
        fingerprint(EncodedMedia(b"bytes of another"), (2, 3), 448),
        fingerprint(EncodedMedia(base64.b64encode(b"bytes of a picture").decode()), (2, 3), 448),
    }
    assert len(names) == 5
    assert {len(name) for name in names} == {32}
    assert fingerprint(EncodedMedia(b"bytes of a picture"), (2, 3), 448) in names
