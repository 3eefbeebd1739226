"""A PNG is decoded if its pixels are there, whatever its other chunks are like."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.errors import ImageDecodeError
from internvl_server.media.decoding.image import DecodeLimits, decode_image, read_size
from PIL import ExifTags, Image

from tests.unit.media.conftest import encode, make_image
from tests.unit.media.decoding.test_image import make_png, png_chunk

LIMITS = DecodeLimits(max_pixels=1_000_000, max_side_px=4000, max_aspect_ratio=200)
HEAD_BYTES = 33  # signature and header
BOMB = zlib.compress(bytes(64 << 20), 9)

_NOISE = np.random.default_rng(0).integers(0, 65536, (9, 7), dtype=np.uint16)
IMAGES = {
    "RGB": make_image(31, 25),
    "RGBA": make_image(31, 25).convert("RGBA"),
    "black": Image.new("RGB", (31, 25)),
    "transparent": Image.new("RGBA", (31, 25)),
    "L": make_image(31, 25).convert("L"),
    "1": make_image(31, 25).convert("1"),
    "P": make_image(31, 25).quantize(7),
    "I;16": Image.fromarray(_NOISE),
}
FILES = {name: encode(image) for name, image in IMAGES.items()}

CHUNKS = {
    "large text": png_chunk(b"tEXt", b"workflow\0" + b"x" * (3 << 20)),
    "large compressed text": png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * (2 << 20))),
    "text bomb": png_chunk(b"zTXt", b"k\0\0" + BOMB),
    "large international text": png_chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"x" * (2 << 20))),
    "profile bomb": png_chunk(b"iCCP", b"p\0\0" + BOMB),
    "broken profile": png_chunk(b"iCCP", b"p\0\0broken"),
    "broken text": png_chunk(b"zTXt", b"k"),
    "unknown": png_chunk(b"prVt", b"?"),
    "unknown and critical": png_chunk(b"PRVT", b"?"),
    "short gamma": png_chunk(b"gAMA", b"1"),
    "animation without frames": png_chunk(b"acTL", b""),
    "short transparency": png_chunk(b"tRNS", b"1"),
    "wrong checksum of text": png_chunk(b"tEXt", b"k\0v")[:-4] + b"0000",
    "wrong checksum of gamma": png_chunk(b"gAMA", bytes(4))[:-4] + b"0000",
    "wrong checksum of a profile": png_chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x"))[:-4] + b"0000",
    "wrong checksum of EXIF": png_chunk(b"eXIf", b"MM\0*")[:-4] + b"0000",
}  # fmt: skip


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(decode_image(data, LIMITS))


def interlaced(image: Image.Image) -> bytes:
    """An Adam7 file of a grey image, without filters; Pillow cannot write one."""
    array = np.asarray(image.convert("L"))
    passes = [array[0::8, 0::8], array[0::8, 4::8], array[4::8, 0::4], array[0::4, 2::4],
              array[2::4, 0::2], array[0::2, 1::2], array[1::2, :]]  # fmt: skip
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    height, width = array.shape
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            header,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        )
    )


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("where", ["before the pixels", "after the pixels"])
def test_other_chunks_do_not_matter(name: str, where: str) -> None:
    data = FILES["RGB"]
    place = HEAD_BYTES if where == "before the pixels" else len(data) - 12
    changed = data[:place] + CHUNKS[name] + data[place:]
    assert np.array_equal(pixels(changed), pixels(data))
    assert read_size(changed, LIMITS) == IMAGES["RGB"].size


def test_transparency_with_a_wrong_checksum_is_ignored() -> None:
    rows = png_chunk(b"IDAT", zlib.compress(b"\0\0"))
    key = png_chunk(b"tRNS", b"\0\0")
    assert pixels(make_png(1, 1, 8, 0, key, rows)).tolist() == [[[255] * 3]]
    assert pixels(make_png(1, 1, 8, 0, key[:-4] + b"0000", rows)).tolist() == [[[0] * 3]]


@pytest.mark.parametrize(
    ("depth", "colour", "key", "row"),
    [
        (1, 0, b"\0\1", b"\x80"),
        (2, 0, b"\0\2", b"\x80"),
        (4, 0, b"\0\2", b"\x20"),
        (8, 0, b"\0\2", b"\2\0"),
        (16, 0, b"\1\2", b"\1\2\0\0"),
        (8, 2, b"\0\1\0\2\0\3", b"\1\2\3\0\0\0"),
        (16, 2, b"\1\2\3\4\5\6", b"\1\2\3\4\5\6" + bytes(6)),
    ],
)
def test_the_transparent_colour_of_every_depth(
    depth: int, colour: int, key: bytes, row: bytes
) -> None:
    rows = png_chunk(b"IDAT", zlib.compress(b"\0" + row))
    data = make_png(2, 1, depth, colour, png_chunk(b"tRNS", key), rows)
    assert pixels(data).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("place", [20, 29])
def test_a_broken_header_is_refused(place: int) -> None:
    data = bytearray(FILES["RGB"])
    data[place] ^= 1
    with pytest.raises(ImageDecodeError):
        pixels(bytes(data))


@pytest.mark.parametrize("num_bytes", range(13))
def test_a_short_header_is_refused(num_bytes: int) -> None:
    header = png_chunk(b"IHDR", FILES["L"][16 : 16 + num_bytes])
    data = FILES["L"][:8] + header + png_chunk(b"tRNS", b"\0\0") + FILES["L"][HEAD_BYTES:]
    for read in (decode_image, read_size):
        with pytest.raises(ImageDecodeError):
            read(data, LIMITS)


def test_a_palette_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(FILES["P"])
    data[data.index(b"PLTE") + 4] ^= 1
    with pytest.raises(ImageDecodeError):
        pixels(bytes(data))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("num_lost", [1, 12, 15, 16, 17, 20])
def test_the_end_may_be_missing(name: str, num_lost: int) -> None:
    """The end chunk, and the checksums after the pixels."""
    data = FILES[name]
    assert np.array_equal(pixels(data[:-num_lost]), pixels(data))


@pytest.mark.parametrize("name", FILES)
def test_the_checksums_after_the_pixels_may_be_wrong(name: str) -> None:
    data = FILES[name]
    assert np.array_equal(pixels(data[:-20] + b"00000000" + data[-12:]), pixels(data))


@given(name=st.sampled_from(sorted(FILES)), num_lost=st.integers(1, 1500))
def test_no_pixel_is_ever_made_up(name: str, num_lost: int) -> None:
    data = FILES[name]
    try:
        decoded = pixels(data[:-num_lost])
    except ImageDecodeError:
        assert num_lost > 20
        return
    assert np.array_equal(decoded, pixels(data))


def rows_of(image: Image.Image, num_rows: int) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(image)[:num_rows])


@pytest.mark.parametrize("name", ["RGB", "RGBA", "black", "transparent", "L"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_an_end_chunk_does_not_hide_missing_rows(name: str, is_cut: bool) -> None:
    image = IMAGES[name]
    colour = {"RGB": 2, "RGBA": 6, "L": 0}[image.mode]
    for num_rows in (0, 1, 24, 25):
        compressed = zlib.compress(rows_of(image, num_rows))
        if is_cut and num_rows:
            compressed = compressed[: len(compressed) * 3 // 4]
        data = make_png(31, 25, 8, colour, png_chunk(b"IDAT", compressed))
        if num_rows == 25 and not is_cut:
            assert np.array_equal(pixels(data), pixels(FILES[name]))
        else:
            with pytest.raises(ImageDecodeError, match="truncated"):
                pixels(data)


def test_a_stream_that_ends_early_after_several_pieces_is_refused() -> None:
    """zlib then leaves the checksum after the stream in the tail, however often it is called."""
    compressed = zlib.compress((b"\0" + bytes(range(250)) * 4) * 999)
    with pytest.raises(ImageDecodeError, match="truncated"):
        pixels(make_png(1000, 1000, 8, 0, png_chunk(b"IDAT", compressed)))


def test_pixels_may_come_in_many_chunks() -> None:
    compressed = zlib.compress(rows_of(IMAGES["RGB"], 25))
    chunks = [png_chunk(b"IDAT", compressed[n : n + 7]) for n in range(0, len(compressed), 7)]
    data = make_png(31, 25, 8, 2, png_chunk(b"IDAT", b""), *chunks)
    assert np.array_equal(pixels(data), pixels(FILES["RGB"]))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 1), (1, 9), (31, 25), (64, 48)])
def test_interlaced(size: tuple[int, int]) -> None:
    image = make_image(*size).convert("L")
    data = interlaced(image)
    assert np.array_equal(pixels(data)[:, :, 0], image)
    assert np.array_equal(pixels(data[:-20]), pixels(data))
    start = data.index(b"IDAT") - 4
    compressed = data[start + 8 : -16]
    rows = zlib.decompress(compressed)
    cut = data[:start] + png_chunk(b"IDAT", zlib.compress(rows[:-1])) + data[-12:]
    with pytest.raises(ImageDecodeError, match="truncated"):
        pixels(cut)


def test_orientation_after_the_pixels_is_applied() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    chunk = png_chunk(b"eXIf", exif.tobytes()[6:])
    data = FILES["RGB"]
    for place in (HEAD_BYTES, len(data) - 12):
        turned = data[:place] + chunk + data[place:]
        assert read_size(turned, LIMITS) == (25, 31)
        assert np.array_equal(pixels(turned), np.rot90(pixels(data), -1))
