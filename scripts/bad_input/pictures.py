"""Pictures of the corpus, whole and broken, as `data:` URLs."""

import base64
import io
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from scripts.bad_input.texts import text_of

__all__ = ["PICTURES", "sample_png"]

Options = Mapping[str, Any]
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG pixel, by colour type


def sample_png() -> bytes:
    """A small whole picture."""
    return _encoded({})


def _url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _damaged(data: bytes, options: Options) -> bytes:
    """Keep a share of the bytes, drop some at the end, change some, add a tail."""
    data = data[: round(len(data) * options.get("keep", 1))]
    data = data[: len(data) - options.get("drop", 0)]
    if "seed" in options:
        rng, changed = random.Random(options["seed"]), bytearray(data)
        for _ in range(options.get("changes", 8)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        data = bytes(changed)
    return data + text_of(options.get("tail", "")).encode("latin-1")


def _encoded(options: Options) -> bytes:
    width, height = options.get("size", (40, 30))
    mode = options.get("mode", "RGB")
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height)).convert(_MODES.get(mode, mode))
    image = image.convert(mode) if mode in _MODES else image
    save = dict(options.get("save", {}))
    if frames := options.get("frames"):
        save |= {"save_all": True, "append_images": [_tinted(image, i) for i in range(1, frames)]}
    if orientation := options.get("orientation"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    image.save(buffer, options.get("format", "PNG"), **save)
    return buffer.getvalue()


_MODES = {"I;16": "I", "LAB": "RGB", "PA": "LA"}


def _tinted(image: Image.Image, number: int) -> Image.Image:
    return Image.new(image.mode, image.size, (number * 7 % 256, number % 256, number // 256))


def _picture(options: Options) -> str:
    """A picture that Pillow writes: format, mode, size, frames, orientation, and options of `save`."""
    name = str(options.get("format", "PNG")).lower()
    return _url(_damaged(_encoded(options), options), options.get("type", f"image/{name}"))


def _png(options: Options) -> str:
    """A PNG made by hand: what its header says, how many rows it has, and which other chunks."""
    width, height = options.get("size", (20, 10))
    depth, colour = options.get("depth", 8), options.get("colour", 2)
    num_rows = options.get("rows", height)
    row_bytes = -(-width * depth * _SAMPLES.get(colour, 1) // 8) if num_rows else 0
    rows = (b"\0" + b"\x55" * row_bytes) * num_rows
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, options.get("interlace", 0))
    chunks = [(b"IHDR", ihdr), *_more(options, "before")]
    if options.get("idat", True):
        chunks.append((b"IDAT", zlib.compress(rows)))
    chunks += _more(options, "after")
    if options.get("end", True):
        chunks.append((b"IEND", b""))
    bad = options.get("bad_crc")
    data = b"".join(_chunk(name, content, is_bad=name.decode() == bad) for name, content in chunks)
    return _url(_damaged(b"\x89PNG\r\n\x1a\n" + data, options))


def _more(options: Options, place: str) -> list[tuple[bytes, bytes]]:
    found = []
    for name, text in options.get(place, []):
        content = text_of(text).encode("latin-1")
        if name == "zTXt":
            content = b"Comment\0\0" + zlib.compress(content)
        found.append((name.encode(), content))
    return found


def _chunk(name: bytes, content: bytes, *, is_bad: bool) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name)) ^ is_bad
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def _scans(options: Options) -> str:
    """A progressive JPEG whose last scan is there many times."""
    data = _encoded({"format": "JPEG", "save": {"progressive": True}} | dict(options))
    last = data[data.rindex(b"\xff\xda") : -2]
    return _url(data[:-2] + last * options["scans"] + data[-2:], "image/jpeg")


def _bytes(options: Options) -> str:
    """Bytes in hexadecimal and text, as a `data:` URL of any type."""
    data = bytes.fromhex(options.get("hex", "")) + text_of(options.get("text", "")).encode(
        "latin-1"
    )
    return _url(data.ljust(options.get("pad", 0), b"\0"), options.get("type", "image/png"))


def _base64(text: Any) -> str:
    return base64.b64encode(text_of(text).encode("latin-1")).decode()


def _sized(num_bytes: int) -> str:
    """A whole picture of so many bytes."""
    return _url(sample_png().ljust(num_bytes, b"x"))


PICTURES: Mapping[str, Callable[[Any], Any]] = {
    "$picture": _picture,
    "$png": _png,
    "$scans": _scans,
    "$bytes": _bytes,
    "$base64": _base64,
    "$sized": _sized,
    "$sample": lambda _: base64.b64encode(sample_png()).decode(),
}
