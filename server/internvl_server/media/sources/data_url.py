"""Parse the `data:` URL of an image or a video.

There are two steps, because strict base64 decoding takes about 12 ms per megabyte: the event loop checks
only the head and the length, and a decode worker decodes the text.
"""

import binascii

from internvl_server.media.types import IMAGE, MediaType

__all__ = ["decode_base64", "is_data_url", "max_base64_chars", "split_data_url"]

MAX_HEAD_CHARS = 256


def is_data_url(url: str) -> bool:
    """Whether a URL is a `data:` URL."""
    return url[:5].lower() == "data:"


def split_data_url(url: str, *, max_bytes: int, param: str, kind: MediaType = IMAGE) -> str:
    """The base64 text of a `data:` URL, not yet decoded.

    Args:
        url: `data:[MIME type][;parameter]*;base64,TEXT`; the MIME type is one of the kind,
            `application/octet-stream` or absent.
        max_bytes: Most bytes the text may decode to.
        param: JSON path of the image or video in the request.
        kind: What the URL must contain.

    Raises:
        ImageUrlError, VideoUrlError: The head is malformed, has another MIME type, or is not base64.
        ImageTooLargeError, VideoTooLargeError: The text decodes to more than `max_bytes`.
    """
    _check_head(url, kind, param)
    comma = url.index(",")
    num_chars = len(url) - comma - 1
    if num_chars == 0:
        raise kind.url_error("The data: URL is empty.", param=param)
    if num_chars > max_base64_chars(max_bytes):
        raise kind.over_limit(max_bytes, param)
    text = url[comma + 1 :]
    if not text.isascii():
        raise kind.url_error("The data: URL holds characters that are not base64.", param=param)
    return text


def _check_head(url: str, kind: MediaType, param: str) -> None:
    example = {"image": "data:image/png;base64,…", "video": "data:video/mp4;base64,…"}[kind.label]
    comma = url.find(",", 0, MAX_HEAD_CHARS)
    if comma < 0:
        raise kind.url_error(f"The data: URL is malformed; write {example} .", param=param)
    mime_type, *parameters = (part.strip().lower() for part in url[5:comma].split(";"))
    if parameters[-1:] != ["base64"]:
        raise kind.url_error(f"The data: URL must be base64: {example} .", param=param)
    if not kind.accepts(mime_type):
        raise kind.url_error(
            f"The data: URL must have a media type of {kind.label}/*.", param=param
        )


def max_base64_chars(num_bytes: int) -> int:
    """Length of `num_bytes` bytes in base64, padding included."""
    return (num_bytes + 2) // 3 * 4


def decode_base64(text: bytes, kind: MediaType = IMAGE) -> bytes:
    """Decode padded standard base64 without whitespace.

    Raises:
        ImageUrlError, VideoUrlError: The text is not padded standard base64.
    """
    error = kind.url_error(
        "The data: URL holds malformed base64; use the standard alphabet with padding and no "
        "whitespace."
    )
    if len(text) % 4:  # strict mode accepts superfluous padding
        raise error
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise error from None
