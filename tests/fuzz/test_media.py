"""`data:` URLs of any kind, and damaged images from their bytes to their tiles."""

import base64
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import PixelType
from internvl_server.errors import ImageError
from internvl_server.media.decoding.image import FORMATS, DecodeLimits, decode_image, read_size
from internvl_server.media.pixels.tiler import PixelFormat, Tiler
from internvl_server.media.sources.data_url import (
    decode_base64,
    decode_plain_base64,
    split_data_url,
)
from internvl_server.media.tiling import count_tiles, select_grid
from PIL import Image

from tests.fuzz.budgets import budget
from tests.unit.media.conftest import encode, make_image

PIECES = st.sampled_from(
    [
        "data:",
        "DATA:",
        "image/png",
        "image/",
        "video/mp4",
        ";",
        ";base64",
        ",",
        "=",
        "==",
        "%3D",
        "%",
        "\n",
        " ",
        "-",
        "_",
        "+",
        "/",
        "é",
        "\0",
        "A" * 60_000,
        base64.b64encode(bytes(300)).decode(),
    ]
)
URLS = st.lists(PIECES | st.text("AZaz09+/=", max_size=8), max_size=10).map("".join)
FIXED_BYTES = 65_536  # of objects that every call makes, and of tables that the first one makes


@budget(1000, 100_000)
@given(url=URLS.map("data:image/png;base64,{}".format) | URLS.map("data:{}".format))
def test_data_urls_are_decoded_in_little_memory_or_refused(url: str) -> None:
    tracemalloc.start()
    try:
        text = split_data_url(url, max_bytes=1 << 20, param="url")
        data = decode_plain_base64(text) or decode_base64(text.encode(), 1 << 20)
        assert len(data) <= len(url) * 3 / 4
    except ImageError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # The text, the same as bytes, each step of decoding, and the result.
    assert peak <= 4 * len(url) + FIXED_BYTES


LIMITS = DecodeLimits(max_pixels=1_000_000, max_side_px=4000, max_aspect_ratio=200)
MAX_TILES = 12
TILE_PX = 28
SEEDS = [
    *[encode(make_image(), image_format) for image_format in FORMATS],
    *[encode(make_image().convert(mode)) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")],
    *[encode(make_image(), "JPEG", progressive=True, quality=q) for q in (5, 95)],
    encode(make_image().convert("CMYK"), "JPEG"),
    encode(make_image(), "TIFF", compression="jpeg"),
    encode(make_image(), "TIFF", compression="tiff_lzw"),
    encode(make_image(), "WEBP", lossless=True),
]
CHANGES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=20)


@pytest.fixture(autouse=True, scope="module")
def _pillow_settings() -> Iterator[None]:
    """Restore what the decoder sets for its process, which here is that of all tests."""
    limit = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = limit


@budget(500, 100_000)
@given(
    seed=st.sampled_from(SEEDS), changes=CHANGES, cut=st.integers(0, 3), tail=st.binary(max_size=8)
)
def test_damaged_images_become_tiles_or_errors(
    seed: bytes, changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    data = data[: len(data) - cut * len(data) // 8] + tail
    try:
        image = decode_image(bytes(data), LIMITS)
    except ImageError:
        return
    assert image.size == read_size(bytes(data), LIMITS)
    grid = select_grid(*image.size, max_tiles=MAX_TILES, tile_px=TILE_PX)
    num_tiles = count_tiles(grid)
    assert num_tiles <= MAX_TILES + 1
    tiles = np.full((num_tiles, 3, TILE_PX, TILE_PX), np.nan, np.float32)
    Tiler(TILE_PX, PixelFormat(PixelType.FLOAT32)).write(image, grid, tiles)
    assert np.isfinite(tiles).all()
