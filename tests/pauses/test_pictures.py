"""A running stream beside requests with large pictures, none of which the server has seen."""

from collections.abc import Iterator
from itertools import count

from tests.pauses.conftest import CHAT, Watched, as_bytes, chat
from tests.unit.media.conftest import data_url, encode, make_image


def with_new_pictures() -> Iterator[bytes]:
    """Requests with eight pictures of 12 megapixels."""
    picture = encode(make_image(4000, 3000), "JPEG")
    for number in count():
        urls = [data_url(picture + bytes([number, index]), "image/jpeg") for index in range(8)]
        parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
        yield as_bytes(CHAT, chat(parts))


def test_large_pictures_hold_no_stream_up(watched: Watched) -> None:
    assert watched.assert_goes_on(with_new_pictures()).startswith(b"HTTP/1.1 200 ")
