"""Recognise a video file by its bytes, and refuse what the demuxer would let pass.

FFmpeg can open playlists, scripts and files that name other files. So the format is decided here, by
signature, from a short list, and the demuxer is named to it; nothing is probed.
"""

from collections.abc import Iterator

from internvl_server.errors import VideoDecodeError

__all__ = ["check_container", "sniff_format", "truncated"]

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# First boxes of ISO media and QuickTime files.
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
# Boxes on the way to the data references of a track.
_PATH = frozenset({b"moov", b"trak", b"mdia", b"minf", b"dinf"})
_MAX_BOXES = 100_000
_SELF_CONTAINED = 1
_UNKNOWN_SIZES = frozenset({(1 << 7 * length) - 1 for length in range(1, 9)})


def sniff_format(data: bytes) -> str:
    """The name of FFmpeg's demuxer for these bytes.

    Raises:
        VideoDecodeError: They are none of the formats that are read.
    """
    if data[4:8] in _FIRST_BOXES:
        return "mp4"
    if data.startswith(_EBML):
        return "matroska"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    raise VideoDecodeError("The video is not a valid MP4, WebM, MKV, MOV or GIF file.")


def check_container(data: bytes, container_format: str) -> None:
    """Refuse a file that ends too early, or that says its pictures are in another file.

    Raises:
        VideoDecodeError: It does.
    """
    if container_format == "gif":
        # A block's terminator and the trailer, with some room for what careless writers append.
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
    """Identifier (four bytes, as all top-level ones), size, and where the content starts."""
    length = 9 - data[offset + 4].bit_length() if offset + 4 < len(data) else 9
    start = offset + 4 + length
    if length > 8 or start > len(data):  # noqa: PLR2004 - a size has at most eight bytes
        raise truncated()
    size = int.from_bytes(data[offset + 4 : start]) & ((1 << 7 * length) - 1)
    return data[offset : offset + 4], size, start


def _check_mp4(data: bytes) -> None:
    for kind, start, end in _boxes(data):
        if kind == b"dref":
            for _, entry, _ in _level(data, start + 8, end):
                if not data[entry + 3] & _SELF_CONTAINED:
                    raise VideoDecodeError("The video refers to another file for its pictures.")


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of the boxes that lead to data references."""
    levels = [_level(data, 0, len(data))]
    for _ in range(_MAX_BOXES):
        if not levels:
            return
        box = next(levels[-1], None)
        if box is None:
            levels.pop()
            continue
        yield box
        if box[0] in _PATH:
            levels.append(_level(data, box[1], box[2]))
    raise VideoDecodeError("The video has too many boxes.")


def _level(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes next to each other between two offsets."""
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4]), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        elif size == 0:
            size = end - start
        if size < head or start + size > end:
            raise truncated()
        yield data[start + 4 : start + 8], start + head, start + size
        start += size
