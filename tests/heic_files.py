"""HEIC files for tests: pictures coded by PyAV's x265, in boxes written by hand as phones write them."""

import struct
from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from PIL import Image

__all__ = ["ALPHA_TYPE", "heic"]

ALPHA_TYPE = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"

_PARAMETER_SETS = (32, 33, 34)  # types of NAL units: video, sequence and picture


def box(name: bytes, *content: bytes) -> bytes:
    """A box of an ISO media file."""
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + name + data


def full(name: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with version and flags."""
    return box(name, struct.pack(">I", version << 24 | flags), *content)


def coded(image: Image.Image) -> tuple[bytes, bytes]:
    """The decoder's configuration and the data of one picture, at least 64 pixels wide and high."""
    encoder = av.CodecContext.create("libx265", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height = image.size
    encoder.pix_fmt = "yuv444p"
    encoder.time_base = Fraction(1)
    encoder.options = {"crf": "4", "x265-params": "log-level=none:pools=none"}
    frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    frame.pts = 0
    stream = b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode(None)]))
    units = [unit.rstrip(b"\0") for unit in stream.split(b"\0\0\1")[1:]]
    config = [bytes((1, *bytes(20), 3, len(_PARAMETER_SETS)))]
    for kind in _PARAMETER_SETS:
        found = next(unit for unit in units if unit[0] >> 1 == kind)
        config += [struct.pack(">BHH", kind, 1, len(found)), found]
    slices = [unit for unit in units if unit[0] >> 1 < min(_PARAMETER_SETS)]
    return b"".join(config), b"".join(struct.pack(">I", len(unit)) + unit for unit in slices)


class _Writer:
    """Collects items, their properties and references."""

    def __init__(self) -> None:
        self.kinds: list[bytes] = []
        self.data: list[bytes] = []
        self.properties: list[bytes] = []
        self.associations: list[list[int]] = []
        self.references: list[bytes] = []

    def add(self, kind: bytes, data: bytes, *properties: bytes) -> int:
        """Add an item; returns its id."""
        self.kinds.append(kind)
        self.data.append(data)
        self.associations.append([])
        for content in properties:
            self.properties.append(content)
            self.associations[-1].append(len(self.properties))
        return len(self.kinds)

    def refer(self, name: bytes, source: int, *targets: int) -> None:
        """Add a reference."""
        numbers = struct.pack(f">HH{len(targets)}H", source, len(targets), *targets)
        self.references.append(box(name, numbers))

    def file(self, primary: int) -> bytes:
        """The file; grids are in the `idat` box."""
        items = range(1, len(self.kinds) + 1)
        idat = b"".join(d for k, d in zip(self.kinds, self.data, strict=True) if k == b"grid")
        head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
        size = len(head) + len(self._meta(primary, items, idat, 0))
        meta = self._meta(primary, items, idat, size + 8)
        coded_data = [d for k, d in zip(self.kinds, self.data, strict=True) if k != b"grid"]
        return head + meta + box(b"mdat", *coded_data)

    def _meta(self, primary: int, items: range, idat: bytes, mdat: int) -> bytes:
        infes = [
            full(b"infe", struct.pack(">HH4sx", n, 0, self.kinds[n - 1]), version=2) for n in items
        ]
        extents = b""
        offsets = {True: 0, False: mdat}
        for n in items:
            is_grid, length = self.kinds[n - 1] == b"grid", len(self.data[n - 1])
            extents += struct.pack(">HHHHII", n, is_grid, 0, 1, offsets[is_grid], length)
            offsets[is_grid] += length
        associations = b"".join(
            struct.pack(f">HB{len(a)}B", n, len(a), *a)
            for n, a in zip(items, self.associations, strict=True)
        )
        return full(
            b"meta",
            full(b"hdlr", bytes(4), b"pict", bytes(13)),
            full(b"pitm", struct.pack(">H", primary)),
            full(b"iinf", struct.pack(">H", len(infes)), *infes),
            full(b"iloc", struct.pack(">HH", 0x4400, len(items)), extents, version=1),
            full(b"iref", *self.references),
            box(
                b"iprp",
                box(b"ipco", *self.properties),
                full(b"ipma", struct.pack(">I", len(items)), associations),
            ),
            box(b"idat", idat),
        )


def heic(
    image: Image.Image,
    *,
    tile: tuple[int, int] | None = None,
    turn: int = 0,
    mirror: int | None = None,
    crop: tuple[int, int] | None = None,
    alpha: Image.Image | None = None,
) -> bytes:
    """A HEIC file of a picture.

    Args:
        image: Any mode; at least 64 pixels wide and high unless it has tiles.
        tile: Width and height of the tiles of a grid; None for a single picture.
        turn: Quarter turns counterclockwise that a viewer applies.
        mirror: 0: upside down, 1: left to right, after the turn.
        crop: Width and height of the middle that a viewer shows, before the turn.
        alpha: Opacity, as large as the picture.
    """
    writer = _Writer()
    shown = (
        []
        if crop is None
        else [box(b"clap", struct.pack(">8i", crop[0], 1, crop[1], 1, 0, 1, 0, 1))]
    )
    shown += [box(b"irot", bytes((turn,)))] if turn else []
    shown += [] if mirror is None else [box(b"imir", bytes((mirror,)))]
    primary = _add_picture(writer, image, tile, shown)
    if alpha is not None:
        kind = full(b"auxC", ALPHA_TYPE + b"\0")
        writer.refer(b"auxl", _add_picture(writer, alpha, tile, [kind]), primary)
    return writer.file(primary)


def _add_picture(
    writer: _Writer, image: Image.Image, tile: tuple[int, int] | None, properties: list[bytes]
) -> int:
    size = full(b"ispe", struct.pack(">II", *image.size))
    if tile is None:
        config, data = coded(image)
        return writer.add(b"hvc1", data, box(b"hvcC", config), size, *properties)
    columns, rows = -(-image.width // tile[0]), -(-image.height // tile[1])
    numbers = []
    for row in range(rows):
        for column in range(columns):
            left, top = column * tile[0], row * tile[1]
            config, data = coded(image.crop((left, top, left + tile[0], top + tile[1])))
            tile_size = full(b"ispe", struct.pack(">II", *tile))
            numbers.append(writer.add(b"hvc1", data, box(b"hvcC", config), tile_size))
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *image.size)
    number = writer.add(b"grid", grid, size, *properties)
    writer.refer(b"dimg", number, *numbers)
    return number
