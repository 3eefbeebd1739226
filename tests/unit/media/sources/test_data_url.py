import base64
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.errors import ImageTooLargeError, ImageUrlError
from internvl_server.media.sources.data_url import (
    check_scheme,
    decode_base64,
    decode_plain_base64,
    is_data_url,
    max_text_chars,
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
        "data:image;base64,",
        "data:binary/octet-stream;base64,",
        "data:image/png\n;base64,",
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
        "data:image/png;base64, \n",
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


def test_a_text_that_is_far_too_long_is_not_decoded() -> None:
    head = "data:;base64,"
    longest = "A" * max_text_chars(300)
    assert split(head + longest, max_bytes=300) == longest
    with pytest.raises(ImageTooLargeError):
        split(head + longest + "A", max_bytes=300)


@given(st.binary(min_size=1, max_size=300))
def test_the_limit_is_exact(data: bytes) -> None:
    text = base64.encodebytes(data)
    assert decode_base64(text, len(data)) == data
    with pytest.raises(ImageTooLargeError):
        decode_base64(text, len(data) - 1)


STYLES: dict[str, Callable[[bytes], bytes]] = {
    "standard": base64.b64encode,
    "lines": base64.encodebytes,
    "windows lines": lambda data: base64.encodebytes(data).replace(b"\n", b"\r\n"),
    "indented lines": lambda data: base64.encodebytes(data).replace(b"\n", b"\n    "),
    "blank before": lambda data: b" " + base64.b64encode(data),
    "line break after": lambda data: base64.b64encode(data) + b"\n",
    "no padding": lambda data: base64.b64encode(data).rstrip(b"="),
    "URL-safe": base64.urlsafe_b64encode,
    "URL-safe without padding": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
    "percent-encoded": lambda data: quote(base64.b64encode(data), safe="").encode(),
    "percent-encoded lines": lambda data: quote(base64.encodebytes(data)).encode(),
}


@pytest.mark.parametrize("style", STYLES)
@given(data=st.binary(min_size=1, max_size=300))
def test_base64_is_decoded_as_programs_write_it(style: str, data: bytes) -> None:
    text = STYLES[style](data)
    assert len(text) <= max_text_chars(len(data))
    assert decode_base64(text, 300) == data


@pytest.mark.parametrize(
    "text",
    ["A", "A===", "AB=", "AB=C", "ABC==", "ABCD=", "ABCD====", "====", "=", "AB==AB==", "AB CD+8=",
     "+-_/", "AB%2", "AB%2GCD=", "AB,CD", "ABCD#x", "AB\0D", "ABCDE", "AB\nC=="],
)  # fmt: skip
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ImageUrlError, match="malformed base64"):
        decode_base64(text.encode(), 1000)


@pytest.mark.parametrize("style", ["standard", "no padding"])
@given(data=st.binary(min_size=1, max_size=300))
def test_standard_base64_needs_no_worker(style: str, data: bytes) -> None:
    assert decode_plain_base64(STYLES[style](data).decode()) == data


@given(st.text(alphabet="AZaz09+/-_=% \n\t,#", max_size=40))
def test_what_needs_no_worker_is_decoded_alike(text: str) -> None:
    plain = decode_plain_base64(text)
    if plain is not None:
        assert plain == decode_base64(text.encode(), 1000)


@given(st.text(alphabet="AZaz09+/-_=% \n\t,#", max_size=40))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        decoded = decode_base64(text.encode(), 1000)
    except ImageUrlError:
        return
    assert len(decoded) <= len(text) * 3 / 4


def test_the_part_for_a_video_is_named() -> None:
    with pytest.raises(ImageUrlError, match="'video_url' part"):
        split("data:video/mp4;base64," + TEXT)


@pytest.mark.parametrize("blank", [" ", "\n", "\t  "])
def test_a_blank_before_the_scheme_is_named(blank: str) -> None:
    url = f"{blank}data:image/png;base64,{TEXT}"
    assert not is_data_url(url)
    with pytest.raises(ImageUrlError, match="blank before data:") as error:
        check_scheme(url, param=PARAM)
    assert error.value.param == PARAM


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
def test_base64_without_its_head_is_named(encode: Callable[[bytes], bytes]) -> None:
    text = encode(bytes(range(200, 256))).decode()
    with pytest.raises(ImageUrlError, match="data:image/png;base64,"):
        check_scheme(text, param=PARAM)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/" + "a" * 60, "http://[2001:db8::1]/x", "example.com/picture.png",
     "C:/pictures/" + "a" * 60, "x", ""],
)  # fmt: skip
def test_other_urls_are_left_to_the_fetcher(url: str) -> None:
    check_scheme(url, param=PARAM)
