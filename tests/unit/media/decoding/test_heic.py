"""HEIC files are taken apart by this server and decoded by FFmpeg."""

import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from internvl_server.errors import ImageDecodeError, ImageTooLargeError
from internvl_server.media.decoding.heif_items import HeifItems
from internvl_server.media.decoding.image import DecodeLimits, decode_image, read_size
from PIL import Image

from tests.heic_files import ALPHA_TYPE, heic
from tests.unit.media.conftest import make_image

LIMITS = DecodeLimits(max_pixels=1_000_000, max_side_px=4000, max_aspect_ratio=200)
PICTURE = make_image(96, 64)
SINGLE = heic(PICTURE)
GRID = heic(make_image(150, 100), tile=(64, 64))


def check(data: bytes, expected: Image.Image) -> None:
    decoded = decode_image(data, LIMITS)
    assert decoded.mode == "RGB"
    assert decoded.size == expected.size == read_size(data, LIMITS)
    difference = np.asarray(decoded, dtype=int) - np.asarray(expected.convert("RGB"), dtype=int)
    assert np.abs(difference).mean() < 3


def test_single_picture() -> None:
    check(SINGLE, PICTURE)


@pytest.mark.parametrize("size", [(150, 100), (128, 128), (20, 30), (65, 64), (64, 200)])
def test_grid(size: tuple[int, int]) -> None:
    image = make_image(*size)
    check(heic(image, tile=(64, 64)), image)


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_turned(tile: tuple[int, int] | None, turn: int) -> None:
    turned = Image.fromarray(np.rot90(np.asarray(PICTURE), turn))
    check(heic(PICTURE, tile=tile, turn=turn), turned)


@pytest.mark.parametrize(
    ("mirror", "transpose"),
    [(0, Image.Transpose.FLIP_TOP_BOTTOM), (1, Image.Transpose.FLIP_LEFT_RIGHT)],
)
def test_mirrored(mirror: int, transpose: Image.Transpose) -> None:
    check(heic(PICTURE, mirror=mirror), PICTURE.transpose(transpose))


def test_cropped_before_it_is_turned() -> None:
    cropped = PICTURE.crop((18, 12, 78, 52))
    turned = Image.fromarray(np.rot90(np.asarray(cropped)))
    check(heic(PICTURE, crop=(60, 40), turn=1), turned)


@pytest.mark.parametrize("name", [ALPHA_TYPE, b"urn:mpeg:hevc:2015:auxid:1"])
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_transparency_becomes_white(tile: tuple[int, int] | None, name: bytes) -> None:
    alpha = Image.new("L", PICTURE.size, 255)
    alpha.paste(0, (0, 0, 64, 64))
    expected = PICTURE.copy()
    expected.paste("white", (0, 0, 64, 64))
    data = heic(PICTURE, alpha=alpha, tile=tile)
    check(data.replace(ALPHA_TYPE, name.ljust(len(ALPHA_TYPE), b"\0")), expected)


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114)])
def test_the_file_says_how_colours_are_coded(
    matrix: int, red: float, blue: float, is_full: bool
) -> None:
    """They are coded with matrix 6 and a narrow range here; the file may say otherwise."""
    r, g, b = np.moveaxis(np.asarray(PICTURE, dtype=float), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cr, cb = (r - y) / 1.402, (b - y) / 1.772
    if is_full:
        y, cr, cb = 16 + y * 219 / 255, cr * 224 / 255, cb * 224 / 255
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    expected = np.stack([r, g, b], -1).clip(0, 255).astype(np.uint8)
    crop = b"clap" + struct.pack(">8i", 96, 1, 64, 1, 0, 1, 0, 1)
    colours = b"colrnclx" + struct.pack(">HHHB", 1, 13, matrix, is_full << 7)
    data = heic(PICTURE, crop=PICTURE.size)
    assert crop in data
    check(data.replace(crop, colours.ljust(len(crop), b"\0")), Image.fromarray(expected))


@pytest.mark.parametrize("num_lost", [1, 50, 500])
@pytest.mark.parametrize("data", [SINGLE, GRID])
def test_a_truncated_file_is_refused(data: bytes, num_lost: int) -> None:
    with pytest.raises(ImageDecodeError):
        decode_image(data[:-num_lost], LIMITS)


@pytest.mark.parametrize("read", [decode_image, read_size])
@pytest.mark.parametrize("data", [SINGLE, GRID])
def test_limits_hold_before_decoding(read: Any, data: bytes) -> None:
    for limits in (DecodeLimits(6000, 4000, 200), DecodeLimits(10**6, 90, 200)):
        with pytest.raises(ImageTooLargeError):
            read(data, limits)


def test_a_large_picture_behind_a_small_header_is_refused() -> None:
    """The size in the coded data is not believed either."""
    large = heic(make_image(256, 256))
    place = large.index(b"ispe") + 8
    small = large[:place] + struct.pack(">II", 64, 64) + large[place + 8 :]
    assert read_size(small, LIMITS) == (64, 64)
    with pytest.raises(ImageDecodeError):
        decode_image(small, LIMITS)


def test_a_grid_whose_tiles_are_not_seen_is_refused() -> None:
    """They would be decoded for nothing."""
    place = GRID.index(b"idat") + 4
    narrow = GRID[:place] + struct.pack(">BBBBHH", 0, 0, 1, 2, 40, 100) + GRID[place + 8 :]
    with pytest.raises(ImageDecodeError):
        decode_image(narrow, LIMITS)


def test_pieces_of_no_bytes_are_refused() -> None:
    """A small file could have billions of them."""
    sizes = SINGLE.index(b"iloc") + 8
    number = sizes + 10
    data = (
        SINGLE[:sizes] + bytes(2) + SINGLE[sizes + 2 : number] + b"\xff\xff" + SINGLE[number + 2 :]
    )
    with pytest.raises(ValueError, match=r"^$"):
        HeifItems(data)


def test_another_type_of_image_is_named() -> None:
    with pytest.raises(ImageDecodeError, match="an image of a type"):
        decode_image(SINGLE.replace(b"hvc1", b"iovl"), LIMITS)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([SINGLE, GRID]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_mutations_are_decoded_or_refused(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    with suppress(ImageDecodeError, ImageTooLargeError):
        decode_image(bytes(changed), LIMITS)
