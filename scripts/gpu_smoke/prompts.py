"""The requests of the GPU trial: deterministic pictures and questions, no files."""

import base64
import io
import random
from typing import Any

import numpy as np
from PIL import Image


def picture_url(width: int, height: int, seed: int = 0) -> str:
    """Coloured blocks as a `data:` URL."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def question(text: str, *sizes: tuple[int, int]) -> dict[str, Any]:
    """A user message: pictures of these sizes, then the text."""
    parts = [
        {"type": "image_url", "image_url": {"url": picture_url(*size, seed=n)}}
        for n, size in enumerate(sizes)
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


PARITY: dict[str, list[dict[str, Any]]] = {
    "text": [question("Name three primary colours.")],
    "one picture": [question("Describe the picture.", (800, 600))],
    "five pictures": [
        question("Compare them.", (448, 448), (896, 448), (448, 896), (640, 480), (300, 300))
    ],
    "three rounds": [
        question("Describe the picture.", (448, 448)),
        {"role": "assistant", "content": "Coloured blocks."},
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "Sixteen."},
        {"role": "user", "content": "Which one is the brightest?"},
    ],
}


def mixed(number: int) -> dict[str, Any]:
    """Request `number` of a load: every second one has a picture, lengths and sampling vary."""
    rng = random.Random(number)
    sizes = [(rng.randint(100, 1600), rng.randint(100, 1600))] if number % 2 else []
    return {
        "messages": [question(f"{number}: tell me a story about blocks.", *sizes)],
        "max_tokens": rng.randint(16, 128),
        "temperature": rng.choice([0.0, 0.7, 1.0]),
        "seed": number,
    }
