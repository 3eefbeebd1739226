"""The requests of measurements: prompts of some length and pictures of some number of tiles, no files."""

import base64
import io
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

__all__ = ["chat_body", "fresh_picture", "picture_file", "text_of_length", "tile_sizes"]

# Width and height, in tiles, of pictures that are cut into so many tiles, thumbnail included.
_GRIDS = {1: (1, 1), 3: (2, 1), 5: (2, 2), 7: (3, 2), 9: (4, 2), 13: (4, 3)}


def tile_sizes(tile_px: int, num_tiles: int) -> tuple[int, int]:
    """Width and height of a picture of so many tiles."""
    columns, rows = _GRIDS[num_tiles]
    return columns * tile_px, rows * tile_px


@cache
def _jpeg(width: int, height: int) -> bytes:
    """A picture with structure at several scales, so that decoding it costs what a photograph does."""
    rng = np.random.default_rng(0)
    image = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in ((4, 0.5), (32, 0.3), (256, 0.2)):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        resized = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
        image += weight * np.asarray(resized)
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def picture_file(width: int, height: int, number: int, num_bytes: int = 0) -> bytes:
    """A JPEG that differs from those of other numbers, by bytes that decoders skip.

    Its size is `num_bytes`, if it is not larger anyway.
    """
    return (_jpeg(width, height) + b"picture %d" % number).ljust(num_bytes, b"\0")


def fresh_picture(width: int, height: int, number: int, num_bytes: int = 0) -> str:
    """The `data:` URL of a `picture_file`."""
    data = picture_file(width, height, number, num_bytes)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def text_of_length(folder: Path, num_tokens: int, number: int) -> str:
    """Words that are about `num_tokens` tokens for this checkpoint, unlike those of other numbers."""
    rng = random.Random(number)
    words = f"{number}:" + "".join(f" {rng.choice(_WORDS)}" for _ in range(num_tokens))
    tokenizer = _tokenizer(folder)
    ids = tokenizer.encode(words, add_special_tokens=False).ids[:num_tokens]
    return tokenizer.decode(ids)


_WORDS = [
    "red",
    "green",
    "blue",
    "block",
    "circle",
    "square",
    "left",
    "right",
    "above",
    "below",
    "small",
    "large",
    "what",
    "which",
    "how",
]


@cache
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


_SYSTEM = "You are a helpful assistant."


def chat_body(text: str, *urls: str, **fields: Any) -> bytes:
    """The body of a chat request: a system text, so that no server takes its own; pictures; the text."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*parts, {"type": "text", "text": text}] if parts else text
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": content}]
    return json.dumps({"messages": messages} | fields).encode()
