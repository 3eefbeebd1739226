import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.errors import ImageTooLargeError, ImageUrlError
from internvl_server.media.sources.data_url import (
    decode_base64,
    is_data_url,
    max_base64_chars,
    split_data_url,
)

PARAM = "messages[0].content[0].image_url"
TEXT = base64.b64encode(b"an image").decode()


def split(url: str, max_bytes: int = 1000) -> str:
    return split_data_url(url, max_bytes=max_bytes, param=PARAM)


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:image/jpeg;charset=utf-8;base64,",
        "data:image/svg+xml;name=x.png;base64,",
        "data:application/octet-stream;base64,",
        "data:;base64,",
        "data:image/png; base64,",
    ],
)
def test_head_is_tolerated(head: str) -> None:
    assert is_data_url(head)
    assert split(head + TEXT) == TEXT


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png," + TEXT,
        "data:," + TEXT,
        "data:image/png;base64;charset=x," + TEXT,
        "data:text/html;base64," + TEXT,
        "data:video/jpeg;base64," + TEXT,
        "data:application/pdf;base64," + TEXT,
        "data:image/png;base64," + TEXT + "\u00e9",
        "data:image/png;" + "x" * 300 + ";base64," + TEXT,
    ],
)
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ImageUrlError) as error:
        split(url)
    assert error.value.param == PARAM


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 100])
def test_length_is_checked_before_decoding(num_bytes: int) -> None:
    text = base64.b64encode(b"x" * num_bytes).decode()
    assert len(text) == max_base64_chars(num_bytes)
    assert split("data:;base64," + text, max_bytes=num_bytes) == text
    with pytest.raises(ImageTooLargeError):
        split("data:;base64," + text + "AAAA", max_bytes=num_bytes)


@pytest.mark.parametrize(
    "text",
    ["A", "AB", "ABC", "AB=C", "ABCD=", "AB CD", "AB\nCD==", "-_-_", "AB%2B", "====", "A==="],
)
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(ImageUrlError):
        decode_base64(text.encode())


@given(st.binary(max_size=200))
def test_base64_is_decoded(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data)) == data
