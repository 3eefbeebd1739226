"""Take the bytes of an image out of a `data:` URL.

Two steps, since strict base64 costs about 12 ms a megabyte: the loop looks only at the head and the
length, a decode worker reads the alphabet.
"""

import binascii

from server.errors import ImageTooLargeError, ImageUrlError

__all__ = ["decode_base64", "is_data_url", "max_base64_chars", "split_data_url"]

MAX_HEAD_CHARS = 256


def is_data_url(url: str) -> bool:
    """Whether the URL carries its own bytes."""
    return url[:5].lower() == "data:"


def split_data_url(url: str, *, max_bytes: int, param: str) -> str:
    """The base64 text of a `data:` URL, not yet decoded.

    Args:
        url: `data:[media type][;parameter]*;base64,TEXT`; the media type is `image/*`,
            `application/octet-stream` or absent.
        max_bytes: Most bytes the text may stand for.
        param: JSON path of the image in the request.

    Raises:
        ImageUrlError: The head is malformed, of another media type, or not base64.
        ImageTooLargeError: The text stands for more than `max_bytes`.
    """
    comma = url.find(",", 0, MAX_HEAD_CHARS)
    if comma < 0:
        raise ImageUrlError(
            "The data: URL is malformed; write data:image/png;base64,… .", param=param
        )
    media_type, *parameters = (part.strip().lower() for part in url[5:comma].split(";"))
    if parameters[-1:] != ["base64"]:
        raise ImageUrlError("The data: URL must be base64: data:image/png;base64,… .", param=param)
    if not (media_type in ("", "application/octet-stream") or media_type.startswith("image/")):
        raise ImageUrlError("The data: URL must have a media type of image/*.", param=param)
    num_chars = len(url) - comma - 1
    if num_chars == 0:
        raise ImageUrlError("The data: URL is empty.", param=param)
    if num_chars > max_base64_chars(max_bytes):
        raise ImageTooLargeError(
            f"The image is larger than {max_bytes} bytes, the limit (media.max_image_bytes).",
            param=param,
        )
    text = url[comma + 1 :]
    if not text.isascii():
        raise ImageUrlError("The data: URL holds characters that are not base64.", param=param)
    return text


def max_base64_chars(num_bytes: int) -> int:
    """Characters of base64, padding included, that `num_bytes` bytes take."""
    return (num_bytes + 2) // 3 * 4


def decode_base64(text: bytes) -> bytes:
    """The bytes that padded standard base64 stands for; no whitespace, no URL-safe alphabet.

    Raises:
        ImageUrlError: The text is not that.
    """
    error = ImageUrlError(
        "The data: URL holds malformed base64; use the standard alphabet with padding and no "
        "whitespace."
    )
    if len(text) % 4:  # strict mode passes padding that is not needed
        raise error
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise error from None
