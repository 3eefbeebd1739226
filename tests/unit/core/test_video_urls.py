import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import is_video_url

EBML = b"\x1a\x45\xdf\xa3" + bytes(20)


def box(brand: bytes) -> bytes:
    return b"\0\0\0\x20ftyp" + brand + bytes(20)


def inline(data: bytes, mime_type: str = "application/octet-stream") -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        inline(b"?", "video/mp4"),
        inline(b"?", "VIDEO/webm;codecs=vp9"),
        inline(box(b"isom")),
        inline(box(b"qt  "), "binary/octet-stream"),
        inline(EBML, ""),
        inline(EBML).replace(",", ",\n "),
        "https://example.com/a/clip.MP4?token=1#t=3",
        "http://example.com/clip.webm",
    ],
)
def test_videos(url: str) -> None:
    assert is_video_url(url)


@pytest.mark.parametrize(
    "url",
    [
        inline(EBML, "image/png"),
        inline(b"\xff\xd8\xff"),
        inline(box(b"avif")),
        inline(box(b"heic")),
        "https://example.com/picture.png?from=clip.mp4",
        "https://clip.mp4/",
        "http://[/clip.mp4",
        "data:",
        "",
    ],
)
def test_pictures(url: str) -> None:
    assert not is_video_url(url)


@given(st.text(max_size=30))
def test_any_text_is_answered(text: str) -> None:
    for url in (text, f"data:;base64,{text}", f"http://{text}"):
        assert is_video_url(url) in (True, False)
