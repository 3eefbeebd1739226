"""Read the chunks of a PNG file that its pixels need, and tell whether all pixels are there.

Text, profiles, animation and unknown chunks are dropped before Pillow reads the file: they do not change
the picture, may be large when decompressed, and errors in them are harmless.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator

__all__ = ["SIGNATURE", "PngFile"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_HEADER = struct.Struct(">IIBBBBB")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column, step of columns, first row and step of rows of each pass of an interlaced image.
_PASSES = (
    (0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2),
)  # fmt: skip
_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf"})
_KEY_BYTES = {b"\0": 2, b"\2": 6}  # of the transparent colour, by colour type
# By depth and colour type: how Pillow scales the samples to 8 bits.
_KEY_SCALES = {b"\2\0": 85, b"\4\0": 17, b"\x10\2": 1 / 256}
_CRITICAL = frozenset({b"IHDR", b"PLTE"})
_PIECE_BYTES = 1 << 18
_ZLIB_HEADER_BYTES = 2


class PngFile:
    """The needed chunks of a PNG file, as the file `data` with one IDAT chunk.

    Kept are the first header and palette, all pixels, and transparency and EXIF if their checksums are
    right. Reading stops at the end chunk, or at what is not a chunk.
    """

    def __init__(self, data: bytes) -> None:
        head: dict[bytes, bytes] = {}
        pixels: list[memoryview] = []
        for name, content, checksum in _chunks(data):
            if name == b"IDAT":
                pixels.append(content)
            elif name in _NEEDED and (not pixels or name == b"eXIf") and (head or name == b"IHDR"):
                chunk = _chunk(name, content)
                if chunk[-4:] == checksum:
                    head.setdefault(name, chunk)
                elif name in _CRITICAL:
                    break
        if b"tRNS" in head:
            head[b"tRNS"] = _transparency(head[b"tRNS"][8:-4], head[b"IHDR"])
        self._head = b"".join(head.values())
        self.data = self._assemble(pixels)
        start = len(SIGNATURE) + len(self._head) + 8
        self._pixels = memoryview(self.data)[start : start + sum(map(len, pixels))]

    @property
    def is_interlaced(self) -> bool:
        """Whether the pixels are sent in seven passes."""
        return bool(self._header[6])

    def has_all_pixels(self) -> bool:
        """Whether the compressed data has all rows. Takes as long as decompressing it."""
        try:
            return all(True for _ in self._rows())
        except zlib.error:
            return False

    def repaired(self) -> bytes | None:
        """A file with the same pixels and intact compression; None if pixels are missing."""
        compressor = zlib.compressobj(1)
        try:
            pieces = [compressor.compress(rows) for rows in self._rows()]
        except zlib.error:
            return None
        return self._assemble([*pieces, compressor.flush()])

    @property
    def _header(self) -> tuple[int, ...]:
        return _HEADER.unpack_from(self._head, 8)

    def _assemble(self, pixels: Iterable[bytes | memoryview]) -> bytes:
        pixels = tuple(pixels)
        length = struct.pack(">I", sum(map(len, pixels)))
        ignored_checksum = bytes(4)  # Pillow does not check the one of pixels
        end = _chunk(b"IEND", b"")
        return b"".join((SIGNATURE, self._head, length, b"IDAT", *pixels, ignored_checksum, end))

    def _rows(self) -> Iterator[bytes]:
        """Decompress all rows, in pieces; what follows them is not needed.

        Raises:
            zlib.error: The data is corrupt, or ends before the last row.
        """
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        missing = self._num_row_bytes()
        for start in range(_ZLIB_HEADER_BYTES, len(self._pixels), _PIECE_BYTES):
            piece = bytes(self._pixels[start : start + _PIECE_BYTES])
            while missing and piece and not inflate.eof:  # the tail stays as it was at the end
                rows = inflate.decompress(piece, min(missing, _PIECE_BYTES))
                missing -= len(rows)
                yield rows
                piece = inflate.unconsumed_tail
            if inflate.eof or not missing:
                break
        if not missing:  # flush would decompress what follows the rows
            return
        rest = inflate.flush()[:missing]
        if len(rest) < missing:
            raise zlib.error
        yield rest

    def _num_row_bytes(self) -> int:
        """Bytes of all rows with their filter types."""
        width, height, depth, colour = self._header[:4]
        num_bits = depth * _SAMPLES[colour]
        passes = _PASSES if self.is_interlaced else ((0, 1, 0, 1),)
        num_bytes = 0
        for left, column_step, top, row_step in passes:
            num_columns = max(-(-(width - left) // column_step), 0)
            num_rows = max(-(-(height - top) // row_step), 0)
            if num_columns:
                num_bytes += num_rows * (1 + -(-num_columns * num_bits // 8))
        return num_bytes


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bytes]]:
    """Name, content and checksum of each chunk; the last one may be cut off."""
    view = memoryview(data)
    start = len(SIGNATURE)
    while start + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if name == b"IEND" or not name.isalpha():
            return
        yield name, view[start + 8 : end], data[end : end + 4]
        start = end + 4


def _transparency(content: bytes, header: bytes) -> bytes:
    """The tRNS chunk as Pillow applies it; nothing if it is shorter than the colour type needs.

    Pillow compares the key with 8-bit samples, except that of 16-bit grey.
    """
    depth_and_colour = header[16:18]  # fewer bytes if the header is too short, which Pillow refuses
    num_bytes = _KEY_BYTES.get(depth_and_colour[1:], 0)
    if len(content) < num_bytes:
        return b""
    if scale := _KEY_SCALES.get(depth_and_colour):
        key = struct.unpack_from(f">{num_bytes // 2}H", content)
        content = struct.pack(f">{len(key)}H", *(int(level * scale) & 255 for level in key))
    return _chunk(b"tRNS", content)


def _chunk(name: bytes, content: bytes | memoryview) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return b"".join((struct.pack(">I", len(content)), name, content, struct.pack(">I", checksum)))
