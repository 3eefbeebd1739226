"""Recognise a video where an image is expected."""

import base64
import binascii
from urllib.parse import urlsplit

__all__ = ["begins_like_video", "is_video_url"]

_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
_UNNAMED_TYPES = ("", "application/octet-stream", "binary/octet-stream")
_EBML = b"\x1a\x45\xdf\xa3"
# Brands of ISO media files that are still pictures.
_IMAGE_BRANDS = frozenset(
    {b"avif", b"avis", b"mif1", b"msf1"}
    | {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
)


def is_video_url(url: str) -> bool:
    """Whether a URL says that it is a video.

    A `data:` URL says so with its MIME type, or with its first bytes if the type does not tell; an http(s)
    URL with the ending of its path.
    """
    if url[:5].lower() != "data:":
        return _has_video_suffix(url)
    head, _, text = url[5:512].partition(",")
    mime_type = head.partition(";")[0].strip().lower()
    return mime_type.startswith("video/") or (
        mime_type in _UNNAMED_TYPES and begins_like_video(_first_bytes(text[:64]))
    )


def begins_like_video(data: bytes) -> bool:
    """Whether a file begins as MP4, MOV, WebM and MKV files do."""
    return data.startswith(_EBML) or (data[4:8] == b"ftyp" and data[8:12] not in _IMAGE_BRANDS)


def _has_video_suffix(url: str) -> bool:
    try:
        return urlsplit(url[:8192]).path.lower().endswith(_SUFFIXES)
    except ValueError:  # malformed: refused where it is fetched
        return False


def _first_bytes(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split())[:16])
    except (binascii.Error, ValueError):  # malformed: refused where it is decoded
        return b""
