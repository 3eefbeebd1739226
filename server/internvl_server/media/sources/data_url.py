"""Parse the `data:` URL of an image or a video.

There are several steps, because a text may have many megabytes: the event loop checks only the head and the
length, and a thread decodes standard base64, without the interpreter lock. What programs write instead of
standard base64 takes longer and holds the lock, so a decode worker decodes it.
"""

import binascii
import re
from typing import AnyStr
from urllib.parse import unquote_to_bytes

import pybase64

from internvl_server.media.types import IMAGE, MediaType

__all__ = [
    "check_scheme",
    "decode_base64",
    "decode_plain_base64",
    "is_data_url",
    "max_text_chars",
    "split_data_url",
]

MAX_HEAD_CHARS = 256
MAX_PADDING = 2

_BARE_BASE64 = re.compile(r"\s*[A-Za-z0-9+/_-]{32}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def is_data_url(url: str) -> bool:
    """Whether a URL is a `data:` URL."""
    return url[:5].lower() == "data:"


def check_scheme(url: str, *, param: str, kind: MediaType = IMAGE) -> None:
    """Name the usual mistakes of a URL that is not a `data:` URL but was meant to be one.

    Raises:
        ImageUrlError, VideoUrlError: There is a blank before `data:`, or base64 without its head.
    """
    if url[:1].isspace() and is_data_url(url[:MAX_HEAD_CHARS].lstrip()):
        raise kind.url_error(
            "The URL has a blank before data: . It must begin with data: .", param=param
        )
    if _BARE_BASE64.match(url):
        raise kind.url_error(
            f"The URL is base64 without its head; write {_example(kind)} .", param=param
        )


def split_data_url(url: str, *, max_bytes: int, param: str, kind: MediaType = IMAGE) -> str:
    """The base64 text of a `data:` URL, not yet decoded.

    Args:
        url: `data:[MIME type][;parameter]*;base64,TEXT`; the MIME type is one of the kind,
            `application/octet-stream` or absent.
        max_bytes: Most bytes the text may decode to. Only texts that are far too long are refused here.
        param: JSON path of the image or video in the request.
        kind: What the URL must contain.

    Raises:
        ImageUrlError, VideoUrlError: The head is malformed, has another MIME type, or is not base64.
        ImageTooLargeError, VideoTooLargeError: The text must decode to more than `max_bytes`.
    """
    _check_head(url, kind, param)
    comma = url.index(",")
    num_chars = len(url) - comma - 1
    if num_chars > max_text_chars(max_bytes):
        raise kind.over_limit(max_bytes, param)
    text = url[comma + 1 :]
    if not text or text.isspace():
        raise kind.url_error("The data: URL is empty.", param=param)
    if not text.isascii():
        raise kind.url_error("The data: URL holds characters that are not base64.", param=param)
    return text


def _check_head(url: str, kind: MediaType, param: str) -> None:
    comma = url.find(",", 0, MAX_HEAD_CHARS)
    if comma < 0:
        raise kind.url_error(f"The data: URL is malformed; write {_example(kind)} .", param=param)
    mime_type, *parameters = (part.strip().lower() for part in url[5:comma].split(";"))
    if parameters[-1:] != ["base64"]:
        raise kind.url_error(f"The data: URL must be base64: {_example(kind)} .", param=param)
    if kind is IMAGE and mime_type.startswith("video/"):
        raise kind.url_error(
            "The data: URL is a video; send it in a 'video_url' part of a chat message.",
            param=param,
        )
    if not kind.accepts(mime_type):
        raise kind.url_error(
            f"The data: URL must have a media type of {kind.label}/*.", param=param
        )


def _example(kind: MediaType) -> str:
    return {"image": "data:image/png;base64,…", "video": "data:video/mp4;base64,…"}[kind.label]


def max_text_chars(num_bytes: int) -> int:
    """Most characters of base64 text for `num_bytes` bytes.

    An eighth is added for line breaks and percent-encoded characters.
    """
    return (num_bytes + 2) // 3 * 9 // 2 + 64


def decode_plain_base64(text: str) -> bytes | None:
    """Decode standard base64 on one line, padded or not; None if the text is anything else.

    Args:
        text: ASCII characters.
    """
    try:
        return pybase64.b64decode(_padded(text, "="), validate=True)
    except binascii.Error:
        return None


def decode_base64(text: bytes, max_bytes: int, kind: MediaType = IMAGE) -> bytes:
    """Decode base64 as programs write it.

    Line breaks, indented lines, percent-encoding, the URL-safe alphabet and missing padding are accepted. A
    blank within a single line is not, because it often was a `+` that was decoded as a form.

    Raises:
        ImageUrlError, VideoUrlError: The text is not base64, mixes both alphabets, or has wrong padding.
        ImageTooLargeError, VideoTooLargeError: The text decodes to more than `max_bytes`.
    """
    try:
        data = binascii.a2b_base64(_to_standard(text), strict_mode=True)
    except binascii.Error:
        raise kind.url_error("The data: URL holds malformed base64.") from None
    if len(data) > max_bytes:
        raise kind.over_limit(max_bytes)
    return data


def _to_standard(text: bytes) -> bytes:
    """Padded standard base64 on one line; copies only what needs a change."""
    if b"%" in text:
        text = unquote_to_bytes(text)
    if b"\n" in text or b"\r" in text:
        text = text.translate(None, b" \t\r\n")
    text = text.strip()
    if (b"-" in text or b"_" in text) and not (b"+" in text or b"/" in text):
        text = text.translate(_URL_SAFE)
    return _padded(text, b"=")


def _padded(text: AnyStr, sign: AnyStr) -> AnyStr:
    end = text[-4:]
    num_padding = len(end) - len(end.rstrip(sign))
    missing = (num_padding - len(text)) % 4
    if num_padding not in (0, missing) or missing > MAX_PADDING:
        raise binascii.Error
    return text if num_padding or not missing else text + sign * missing
