"""Whether a JPEG file has data for all of its pixels.

libjpeg replaces what is missing with grey and only warns, and Pillow hides the warning. Whether the end
marker is there says little: careless writers omit it, and a file that was cut may have got one. So the
test is whether the decoder needs more data than there is: the file is decoded again with other data after
its last scan. If that makes a difference, pixels are missing.
"""

import io
import re
from collections.abc import Iterator
from itertools import takewhile

from PIL import Image, ImageFile

__all__ = [
    "END",
    "MAX_SCANS",
    "START",
    "has_all_pixels",
    "has_too_long_head",
    "has_too_many_scans",
    "looks_cut_off",
]

START = b"\xff\xd8"
END = b"\xff\xd9"
# Before the first scan, of segments and of fill bytes in a row. Pillow reads both one by one, in Python.
_MAX_HEAD = 10_000
# Encoders write about ten. A scan may have few bytes and still visits every block of the image, so that a
# small file could take minutes.
MAX_SCANS = 100

# Not within entropy-coded data, where 0xFF is followed by 0x00 or by a restart marker.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_WITHOUT_LENGTH = frozenset({0x01, 0xD8, 0xD9})
_START_OF_SCAN = 0xDA
# Markers of frames, with the number of coefficients that are sent in separate scans.
_FRAMES = {0xC0: 1, 0xC1: 1, 0xC9: 1, 0xC2: 64, 0xCA: 64}
# Decodes to long codes and large coefficients, unlike the zeros that libjpeg assumes.
_NOISE = b"\xfe\xdf\x7b\xa5" * 50

_GREY = 127.5
_TOLERANCE = 2.5  # colours of missing blocks are interpolated with those of their neighbours


def has_too_long_head(data: bytes) -> bool:
    """Whether there are more segments or fill bytes before the first scan than any camera writes."""
    end = len(START)
    for number, (offset, marker, content) in enumerate(_segments(data)):
        if number > _MAX_HEAD or offset - end > _MAX_HEAD:
            return True
        if marker == _START_OF_SCAN:
            return False
        end = offset + 4 + len(content)
    return len(data) - end > _MAX_HEAD


def has_too_many_scans(data: bytes) -> bool:
    """Whether a file has more than `MAX_SCANS` scans."""
    if data.count(bytes((0xFF, _START_OF_SCAN))) <= MAX_SCANS:
        return False
    markers = (marker for _, marker, _ in _segments(data))
    image = takewhile(END[1].__ne__, markers)  # another image may follow
    return sum(marker == _START_OF_SCAN for marker in image) > MAX_SCANS


def looks_cut_off(image: Image.Image, data: bytes) -> bool:
    """Whether the last pixel may be missing, or a scan of a progressive file.

    A missing pixel is grey. Few whole pictures end in grey, and few files leave out a scan on purpose.
    """
    if image.info.get("progressive") and not _has_all_scans(data[: _find_end(data)]):
        return True
    width, height = image.size
    last = image.crop((width - 1, height - 1, width, height)).tobytes()
    return all(abs(value - _GREY) <= _TOLERANCE for value in last)


def has_all_pixels(image: Image.Image, data: bytes) -> bool:
    """Whether a file that was decoded to `image` has data for all pixels. Takes as long as decoding it.

    Raises:
        Exception: Pillow cannot decode the file.
    """
    end = _find_end(data)
    if not data.startswith(END, end) and not _has_all_scans(data):
        return False
    scans = data[:end].rstrip(b"\xff")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with Image.open(io.BytesIO(scans + _continuation(scans)), formats=("JPEG",)) as continued:
        return continued.tobytes() == image.tobytes()


def _find_end(data: bytes) -> int:
    """The offset of the marker after the last scan, or the length of the data if there is none."""
    for offset, marker, _ in _segments(data):
        if marker in _WITHOUT_LENGTH:
            return offset
    return len(data)


def _continuation(scans: bytes) -> bytes:
    """Noise with restart markers, in the order in which the decoder expects them."""
    start = scans.rfind(bytes((0xFF, _START_OF_SCAN)))
    offsets = [scans.rfind(bytes((0xFF, 0xD0 + number)), start) for number in range(8)]
    following = offsets.index(max(offsets)) + 1 if max(offsets) >= 0 else 0
    markers = [bytes((0xFF, 0xD0 + (following + number) % 8)) for number in range(8)]
    return b"".join(_NOISE + marker for marker in markers) + _NOISE + END


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans send all colours, and if progressive the last bit of all coefficients."""
    missing: dict[int, set[int]] = {}
    for _, marker, content in _segments(data):
        if marker in _FRAMES:
            missing = {component: set(range(_FRAMES[marker])) for component in content[6::3]}
        elif marker == _START_OF_SCAN and missing:
            *components, first, last, bits = content[1:-3:2] + content[-3:]
            for component in components if bits & 15 == 0 else ():
                missing[component].difference_update(range(first, last + 1))
    return not any(missing.values())


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Offset, marker and content of each segment after the first marker."""
    offset = 2
    while (match := _MARKER.search(data, offset)) is not None:
        offset = match.end()
        marker = match[1][0]
        num_bytes = 0 if marker in _WITHOUT_LENGTH else int.from_bytes(data[offset : offset + 2])
        yield match.start(), marker, data[offset + 2 : offset + num_bytes]
        offset += num_bytes
