"""Read the items of a HEIF file: the image that is shown, its properties, and where its data is.

Source: ISO/IEC 14496-12 (boxes, `meta`) and 23008-12 (item properties, `grid`). Only what photos of phones
need is read. All numbers come from an unknown sender; malformed data raises an exception.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Grid", "HeifItem", "HeifItems", "is_heic"]

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis")
# The second is what phones and libheif write.
_ALPHA_TYPES = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")

_MAX_BOXES = 20_000
_IN_IDAT = 1


def is_heic(data: bytes) -> bool:
    """Whether a file says that it is a HEIC image."""
    brands = data[8 : min(int.from_bytes(data[:4]), 512)]
    return data[4:8] == b"ftyp" and any(brand in brands for brand in _HEIC_BRANDS)


@dataclass(slots=True)
class HeifItem:
    """One item.

    Attributes:
        kind: Its type, such as `hvc1` or `grid`.
        properties: Names and contents, in the order in which transformations are applied.
        extents: Offset and length of the pieces of its data.
        is_in_idat: Whether they are offsets in the `idat` box instead of the file.
        tiles: The ids of the items a grid is made of.
        alpha: The item that is this one's transparency.
    """

    kind: bytes = b""
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    extents: list[tuple[int, int]] = field(default_factory=list)
    is_in_idat: bool = False
    tiles: tuple[int, ...] = ()
    alpha: "HeifItem | None" = None

    def find(self, name: bytes) -> bytes:
        """The content of a property the item must have."""
        return dict(self.properties)[name]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height before the item's transformations."""
        reader = _Reader(self.find(b"ispe"), 4)
        return reader.number(4), reader.number(4)


@dataclass(frozen=True, slots=True)
class Grid:
    """An image of equal tiles, row by row, cropped at the right and at the bottom."""

    num_rows: int
    num_columns: int
    size: tuple[int, int]

    @classmethod
    def parse(cls, data: bytes) -> "Grid":
        """Read the data of an item of type `grid`."""
        reader = _Reader(data, 1)
        num_bytes = 4 if reader.number(1) & 1 else 2
        num_rows, num_columns = reader.number(1) + 1, reader.number(1) + 1
        return cls(num_rows, num_columns, (reader.number(num_bytes), reader.number(num_bytes)))


class HeifItems:
    """The items of a file.

    Args:
        data: The file.

    Raises:
        ValueError, LookupError: It is malformed.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items: dict[int, HeifItem] = {}
        meta = dict(_boxes(data))[b"meta"]
        boxes = dict(_boxes(meta[4:]))
        self._idat = boxes.get(b"idat", b"")
        self._read_types(boxes[b"iinf"])
        self._read_locations(_Reader(boxes[b"iloc"]))
        properties = list(_boxes(boxes[b"iprp"]))
        for name, content in properties:
            if name == b"ipma":
                self._read_properties(_Reader(content), list(_boxes(dict(properties)[b"ipco"])))
        self._read_references(boxes.get(b"iref", bytes(4)))
        pitm = _Reader(boxes[b"pitm"])
        self.primary = self._items[pitm.number(4 if pitm.version else 2)]

    def tiles(self, item: HeifItem) -> list[HeifItem]:
        """The items of a grid's tiles."""
        return [self._items[number] for number in item.tiles]

    def content(self, item: HeifItem) -> bytes:
        """The data of an item.

        Raises:
            ValueError: The end of the file is missing.
        """
        source = self._idat if item.is_in_idat else self._data
        if any(start + length > len(source) for start, length in item.extents):
            raise ValueError
        return b"".join(source[start : start + length or None] for start, length in item.extents)

    def _read_types(self, iinf: bytes) -> None:
        start = 6 if iinf[0] == 0 else 8
        for _, entry in _boxes(iinf[start:]):
            reader = _Reader(entry)
            number = reader.number(4 if reader.version > 2 else 2)  # noqa: PLR2004 - a version
            reader.number(2)
            self._items[number] = HeifItem(reader.take(4))

    def _read_locations(self, reader: "_Reader") -> None:
        sizes = reader.number(2)
        offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_bytes = sizes & 15 if reader.version else 0
        id_bytes = 4 if reader.version > 1 else 2
        for _ in range(reader.number(id_bytes)):
            item = self._items[reader.number(id_bytes)]
            method = reader.number(2) & 15 if reader.version else 0
            if method > _IN_IDAT or reader.number(2):  # in another item, or in another file
                raise ValueError
            item.is_in_idat = method == _IN_IDAT
            base = reader.number(base_bytes)
            num_extents = reader.number(2)
            if num_extents and not length_bytes:  # of no bytes, they could be many in a small file
                raise ValueError
            for _ in range(num_extents):
                reader.number(index_bytes)
                start = base + reader.number(offset_bytes)
                item.extents.append((start, reader.number(length_bytes)))

    def _read_references(self, iref: bytes) -> None:
        id_bytes = 4 if iref[0] else 2
        for name, content in _boxes(iref[4:]):
            reader = _Reader(content, 0)
            item = self._items[reader.number(id_bytes)]
            others = tuple(reader.number(id_bytes) for _ in range(reader.number(2)))
            if name == b"dimg":
                item.tiles = others
            elif name == b"auxl" and _auxiliary_type(item) in _ALPHA_TYPES:
                for number in others:
                    self._items[number].alpha = item

    def _read_properties(self, reader: "_Reader", properties: list[tuple[bytes, bytes]]) -> None:
        index_bytes = 2 if reader.flags & 1 else 1
        for _ in range(reader.number(4)):
            item = self._items[reader.number(4 if reader.version else 2)]
            for _ in range(reader.number(1)):
                index = reader.number(index_bytes) & ((1 << 8 * index_bytes - 1) - 1)
                if index:
                    item.properties.append(properties[index - 1])


def _auxiliary_type(item: HeifItem) -> bytes:
    return dict(item.properties).get(b"auxC", b"")[4:].partition(b"\0")[0]


class _Reader:
    """Reads big-endian numbers; raises ValueError at the end.

    By default it begins after the version and flags of a full box.
    """

    def __init__(self, data: bytes, offset: int | None = None) -> None:
        self._data = data
        self._offset = 0
        self.version = self.flags = 0
        if offset is None:
            self.version, self.flags = self.number(1), self.number(3)
        else:
            self._offset = offset

    def number(self, num_bytes: int) -> int:
        return int.from_bytes(self.take(num_bytes))

    def take(self, num_bytes: int) -> bytes:
        taken = self._data[self._offset : self._offset + num_bytes]
        if len(taken) < num_bytes:
            raise ValueError
        self._offset += num_bytes
        return taken


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of boxes; the content of the last one may be cut off."""
    start = 0
    for _ in range(_MAX_BOXES):
        if start + 8 > len(data):
            return
        size, head = int.from_bytes(data[start : start + 4]), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        end = start + size if size else len(data)
        if end < start + head:
            raise ValueError
        yield data[start + 4 : start + 8], data[start + head : end]
        start = end
    raise ValueError
