"""A JPEG is decoded if its pixels are there, whatever is missing or wrong after them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.errors import ImageDecodeError
from internvl_server.media.decoding.image import DecodeLimits, decode_image, read_size
from PIL import Image

from tests.unit.media.conftest import encode, make_image

LIMITS = DecodeLimits(max_pixels=1_000_000, max_side_px=4000, max_aspect_ratio=200)
END = b"\xff\xd9"
SIZE = (61, 45)  # the last blocks are partly outside
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))

IMAGES = {
    "smooth": make_image(*SIZE),
    "noise": NOISE,
    "white": Image.new("RGB", SIZE, "white"),
    "grey": make_image(*SIZE).convert("L"),
    "cmyk": make_image(*SIZE).convert("CMYK"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "progressive": {"progressive": True},
    "fine": {"quality": 95, "optimize": True},
    "restart after each block": {"restart_marker_blocks": 1},
    "restart after three blocks": {"restart_marker_blocks": 3},
    "restart after each row": {"restart_marker_rows": 1},
}
FILES = {
    (image, options): encode(IMAGES[image], "JPEG", **OPTIONS[options])
    for image in IMAGES
    for options in OPTIONS
}


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(decode_image(data, LIMITS))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "tail", [b"", b"\xff", b"\0" * 100, b"\n<html>", b"\xff\xff\xff", b"\xff" * 1_000_000]
)
def test_the_end_marker_may_be_missing(file: tuple[str, str], tail: bytes) -> None:
    data = FILES[file]
    assert data.endswith(END)
    assert np.array_equal(pixels(data[:-2] + tail), pixels(data))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("tail", [b"garbage", FILES["smooth", "4:2:0"], b"\xff\xda\xff\xd0\xff"])
def test_anything_may_follow_the_end_marker(file: tuple[str, str], tail: bytes) -> None:
    data = FILES[file]
    assert np.array_equal(pixels(data + tail), pixels(data))


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\0", b"\xff\xfe\0\2", b"\xff\xe1\0\2"])
def test_a_head_of_millions_of_pieces_is_not_read(filling: bytes) -> None:
    """Pillow would read it for seconds."""
    data = FILES["smooth", "4:2:0"]
    few, many = (data[:2] + filling * number + data[2:] for number in (1, 1_000_000))
    assert np.array_equal(pixels(few), pixels(data))
    for read in (decode_image, read_size):
        with patch.object(Image, "open") as opened, pytest.raises(ImageDecodeError):
            read(many, LIMITS)
        opened.assert_not_called()


@given(file=st.sampled_from(sorted(FILES)), num_lost=st.integers(1, 600))
def test_no_pixel_is_ever_made_up(file: tuple[str, str], num_lost: int) -> None:
    data = FILES[file]
    try:
        decoded = pixels(data[:-num_lost])
    except ImageDecodeError:
        return
    assert np.array_equal(decoded, pixels(data))


@pytest.mark.parametrize("file", [file for file in FILES if file[0] in ("smooth", "noise")])
def test_losing_data_is_noticed(file: tuple[str, str]) -> None:
    """Nothing else could be cut from these files: the last byte always has the end of a block."""
    data = FILES[file]
    for num_lost in (4, 5, 6, 8, 13, 40, len(data) // 2):
        with pytest.raises(ImageDecodeError, match="truncated"):
            pixels(data[:-num_lost])


@pytest.mark.parametrize("options", [o for o in OPTIONS if o != "progressive"])
@pytest.mark.parametrize("image", ["smooth", "noise", "grey", "cmyk"])
def test_an_end_marker_does_not_hide_missing_rows(image: str, options: str) -> None:
    data = encode(IMAGES[image].resize((96, 160)), "JPEG", **OPTIONS[options])
    for kept in (0.5, 0.7, 0.85):
        with pytest.raises(ImageDecodeError, match="truncated"):
            pixels(data[: int(len(data) * kept)] + END)


def test_an_end_marker_does_not_hide_half_a_scan() -> None:
    data = FILES["noise", "progressive"]
    scans = [n for n in range(len(data)) if data.startswith(b"\xff\xda", n)]
    for start, end in pairwise(scans):
        with pytest.raises(ImageDecodeError, match="truncated"):
            pixels(data[: (start + end) // 2] + END)


def test_a_progressive_file_may_leave_out_its_last_scan() -> None:
    data = FILES["noise", "progressive"]
    pixels(data[: data.rindex(b"\xff\xda")] + END)


def test_scans_of_a_progressive_file_are_counted() -> None:
    """Between two scans nothing but their number shows that the file was cut."""
    data = FILES["smooth", "progressive"]
    scans = [n for n in range(len(data)) if data.startswith(b"\xff\xda", n)]
    tables = [n for n in range(len(data)) if data.startswith(b"\xff\xc4", n)]
    between = [n for n in tables if n > scans[0]]
    assert between
    for cut in between:
        with pytest.raises(ImageDecodeError, match="truncated"):
            pixels(data[:cut])


@pytest.mark.parametrize("num_more", [90, 91])
def test_a_file_of_scans_without_number_is_refused_before_it_is_decoded(num_more: int) -> None:
    data = FILES["smooth", "progressive"]
    last = data[data.rindex(b"\xff\xda") : -2]
    assert data.count(b"\xff\xda") == 10
    many = data[:-2] + last * num_more + END
    if num_more == 90:
        pixels(many + last * 20)  # what follows the end is not part of the image
    else:
        with pytest.raises(ImageDecodeError, match="scans"):
            pixels(many)


def test_scans_of_colours_are_counted() -> None:
    """A baseline file may have one scan for each colour."""
    whole = one_scan_a_colour([band.resize((64, 48)) for band in make_image(*SIZE).split()])
    assert np.array_equal(pixels(whole[:-2]), pixels(whole))
    second, third = (whole.index(b"\xff\xda\x00\x08\x01" + bytes([n])) for n in (2, 3))
    for cut in (second, third):
        with pytest.raises(ImageDecodeError, match="truncated"):
            pixels(whole[:cut])


def one_scan_a_colour(bands: Sequence[Image.Image]) -> bytes:
    """A JPEG file of bands whose sides are multiples of eight, made of a file for each."""
    files = [encode(band, "JPEG") for band in bands]
    frame, scan = (files[0].index(bytes([0xFF, marker])) for marker in (0xC0, 0xDA))
    size = files[0][frame + 4 : frame + 9]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    scans = b"".join(
        b"\xff\xda\x00\x08\x01" + bytes([number, 0, 0, 63, 0]) + file[scan + 10 : -2]
        for number, file in enumerate(files, start=1)
    )
    header = b"\xff\xc0\x00\x11" + size + b"\x03" + components
    return files[0][:frame] + header + files[0][frame + 13 : scan] + scans + END


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_grey_image_is_whole(mode: str) -> None:
    """It looks like one whose rows are missing."""
    grey = Image.new("RGB", SIZE, (128, 128, 128)).convert(mode)
    decoded = pixels(encode(grey, "JPEG"))
    assert decoded.shape == (*SIZE[::-1], 3)
    assert decoded.std() < 2


def test_a_thumbnail_in_the_metadata_is_not_the_image() -> None:
    thumbnail = encode(make_image(8, 8), "JPEG")
    data = encode(make_image(), "JPEG", comment=thumbnail)
    assert np.array_equal(pixels(data[:-2]), pixels(data))
    with pytest.raises(ImageDecodeError):
        pixels(data[: len(data) - 40])


def test_the_second_picture_of_a_phone_may_be_cut_off() -> None:
    first, second = make_image(seed=1), make_image(seed=2)
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert np.array_equal(pixels(data), pixels(encode(first, "JPEG", quality=95)))
    assert np.array_equal(pixels(data[:-200]), pixels(data))
