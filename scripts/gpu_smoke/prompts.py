"""The requests of the GPU trial: deterministic pictures and questions, no files."""

import base64
import io
import random
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

__all__ = ["Messages", "mixed", "parity_prompts", "picture_url", "question", "request_kinds"]

Messages: TypeAlias = list[dict[str, Any]]

NUM_PARITY = 64


def picture_url(width: int, height: int, seed: int = 0) -> str:
    """Coloured blocks as a `data:` URL."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def question(text: str, *sizes: tuple[int, int], seed: int = 0) -> dict[str, Any]:
    """A user message: pictures of these sizes, then the text."""
    parts = [
        {"type": "image_url", "image_url": {"url": picture_url(*size, seed=seed + n)}}
        for n, size in enumerate(sizes)
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def request_kinds(tile_px: int) -> dict[str, tuple[Messages, int]]:
    """The kinds of request that every trial makes, and how many tiles each has."""
    one, grid, row = (tile_px, tile_px), (4 * tile_px, 3 * tile_px), (7 * tile_px, tile_px)
    different = (one, (2 * tile_px, tile_px), (tile_px, 2 * tile_px), one, one)
    return {
        "text": ([question("Name three primary colours.")], 0),
        "1 tile": ([question("Describe the picture.", one)], 1),
        "13 tiles": ([question("Describe the picture.", grid)], 13),
        "64 tiles": ([question("Compare them.", *[row] * 8)], 64),
        "5 pictures": ([question("Compare them.", *different)], 9),
        "three rounds": (
            [
                question("Describe the picture.", one),
                {"role": "assistant", "content": "Coloured blocks."},
                {"role": "user", "content": "How many?"},
                {"role": "assistant", "content": "Sixteen."},
                {"role": "user", "content": "Which one is the brightest?"},
            ],
            1,
        ),
    }


def parity_prompts(tile_px: int, number: int = NUM_PARITY) -> list[Messages]:
    """Of every eight, four are text, two have a picture of one tile, one two pictures, and one 13 tiles."""
    one, grid = (tile_px, tile_px), (4 * tile_px, 3 * tile_px)
    sizes: list[tuple[tuple[int, int], ...]] = [
        (),
        (),
        (),
        (),
        (one,),
        (one,),
        (one, (2 * tile_px, tile_px)),
        (grid,),
    ]
    return [
        [question(f"{_QUESTIONS[n % 5]} {n}", *sizes[n % 8], seed=100 * n)] for n in range(number)
    ]


_QUESTIONS = (
    "What is to be seen?", "Name a colour.", "How many are there?", "Is it large?", "Tell a story.",
)  # fmt: skip


def mixed(number: int, tile_px: int) -> dict[str, Any]:
    """Request `number` of a load: every second one has a picture, lengths and sampling vary."""
    rng = random.Random(number)
    sides = [round(tile_px * rng.uniform(0.3, 3.5)) for _ in range(2)]
    sizes = [(sides[0], sides[1])] if number % 2 else []
    return {
        "messages": [question(f"{number}: tell me a story about blocks.", *sizes)],
        "max_tokens": rng.randint(16, 128),
        "temperature": rng.choice([0.0, 0.7, 1.0]),
        "seed": number,
    }
