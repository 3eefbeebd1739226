"""Recognise the container of a video by its signature, and refuse a file that was cut off.

FFmpeg can open playlists, scripts and files that name other files. So the format is chosen here from a
short list and named to the demuxer; FFmpeg does not probe.
"""

from internvl_server.core import begins_like_video
from internvl_server.errors import VideoDecodeError

__all__ = ["check_container", "sniff_format", "truncated"]

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# First boxes of ISO media and QuickTime files.
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
# Those with frames, or with what is needed to find them.
_NEEDED_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"moof"})
_MAX_BOXES = 100_000
_UNKNOWN_SIZES = frozenset({(1 << 7 * length) - 1 for length in range(1, 9)})


def sniff_format(data: bytes) -> str:
    """The name of FFmpeg's demuxer for a video file.

    Raises:
        VideoDecodeError: The format is not supported.
    """
    if data[4:8] == b"ftyp" and not begins_like_video(data):
        raise VideoDecodeError(
            "The file is an image; send it in an 'image_url' part of a chat message."
        )
    if data[4:8] in _FIRST_BOXES:
        return "mp4"
    if data.startswith(_EBML):
        return "matroska"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    raise VideoDecodeError("The video is not a valid MP4, WebM, MKV, MOV or GIF file.")


def check_container(data: bytes, container_format: str) -> None:
    """Refuse a file that ends too early, which FFmpeg may not notice.

    Raises:
        VideoDecodeError: The end of the file is missing.
    """
    if container_format == "gif":
        # The terminator of a block and the trailer, with room for what careless writers append.
        if b"\0;" not in data[-64:]:
            raise truncated()
    elif container_format == "matroska":
        _check_matroska(data)
    else:
        _check_mp4(data)


def truncated() -> VideoDecodeError:
    """The error for a file whose end is missing."""
    return VideoDecodeError("The video is truncated or corrupt.")


def _check_matroska(data: bytes) -> None:
    _, size, start = _read_element(data, 0)
    segment = start + size
    identifier, size, start = _read_element(data, segment)
    if identifier != _SEGMENT:
        raise truncated()
    if size not in _UNKNOWN_SIZES and start + size > len(data):
        raise truncated()


def _read_element(data: bytes, offset: int) -> tuple[bytes, int, int]:
    """The identifier of a top-level element (four bytes), its size, and the offset of its content."""
    length = 9 - data[offset + 4].bit_length() if offset + 4 < len(data) else 9
    start = offset + 4 + length
    if length > 8 or start > len(data):  # noqa: PLR2004 - a size has at most eight bytes
        raise truncated()
    size = int.from_bytes(data[offset + 4 : start]) & ((1 << 7 * length) - 1)
    return data[offset : offset + 4], size, start


def _check_mp4(data: bytes) -> None:
    """Follow the top-level boxes to the end of the file, or to what some cameras append to it."""
    start = 0
    for _ in range(_MAX_BOXES):
        if start + 8 > len(data):
            return
        size, head = int.from_bytes(data[start : start + 4]), 8
        if size == 0:  # the last box, of any length
            return
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        if size < head or start + size > len(data):
            if data[start + 4 : start + 8] in _NEEDED_BOXES:
                raise truncated()
            return
        start += size
    raise VideoDecodeError("The video has too many boxes.")
