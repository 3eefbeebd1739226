"""Renders scenes as images and encodes them as files."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from scripts.demo_model.world.scene import Item, Scene

_SUPERSAMPLING = 4
_LARGE_PX, _LARGE_SUPERSAMPLING = 300, 2


def render_scene(scene: Scene) -> Image.Image:
    """Render a scene in RGB, with JPEG artefacts if the scene has a JPEG quality."""
    canvas = _render(scene)
    if not scene.jpeg_quality:
        return canvas
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=scene.jpeg_quality)
    return Image.open(buffer).convert("RGB")


def encode_scene(scene: Scene) -> tuple[bytes, str]:
    """Encode a scene as JPEG if it has a JPEG quality, else as PNG.

    Returns:
        The file's bytes and its media type.
    """
    buffer = io.BytesIO()
    canvas = _render(replace(scene, jpeg_quality=0))
    if scene.jpeg_quality:
        canvas.save(buffer, "JPEG", quality=scene.jpeg_quality)
        return buffer.getvalue(), "image/jpeg"
    canvas.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"


def outline(item: Item) -> list[tuple[float, float]]:
    """Return an item's corners around (0, 0) for radius 1; a circle is a 48-sided polygon."""
    if item.shape == "circle":
        turns = [(i / 48, 1.0) for i in range(48)]
    elif item.shape == "square":
        turns = [((i + 0.5) / 4, 1.0) for i in range(4)]
    elif item.shape == "triangle":
        turns = [(i / 3, 1.0) for i in range(3)]
    else:
        turns = [(i / 10, 1.0 if i % 2 == 0 else 0.43) for i in range(10)]
    start = item.angle / 360 - 0.25
    return [
        (r * math.cos(2 * math.pi * (t + start)), r * math.sin(2 * math.pi * (t + start)))
        for t, r in turns
    ]


def _render(scene: Scene) -> Image.Image:
    canvas = _background(scene)
    for item in scene.items:
        _paste(canvas, item)
    return canvas


def _background(scene: Scene) -> Image.Image:
    """Render the background: plain, a soft gradient, fine noise or soft blotches."""
    size = scene.width, scene.height
    if scene.texture == "plain":
        return Image.new("RGB", size, scene.background)
    rng = np.random.default_rng(scene.seed)
    if scene.texture == "gradient":
        offsets = rng.uniform(-14, 14, (2, 2, 1))
    elif scene.texture == "blotches":
        offsets = rng.uniform(-10, 10, (6, 6, 1))
    else:
        offsets = rng.normal(0, 5, (scene.height // 2 + 1, scene.width // 2 + 1, 1))
    mean = np.array(scene.background, dtype=np.float32)
    small = np.clip(mean + offsets.astype(np.float32), 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def _paste(canvas: Image.Image, item: Item) -> None:
    """Draw one item with antialiased edges, through a supersampled mask of its bounding box."""
    x, y = item.x * canvas.width, item.y * canvas.height
    left = math.floor(x - item.radius) - 1
    top = math.floor(y - item.radius) - 1
    side = math.ceil(2 * item.radius) + 4
    scale = _SUPERSAMPLING if side < _LARGE_PX else _LARGE_SUPERSAMPLING
    mask = Image.new("L", (side * scale, side * scale))
    points = [
        ((x - left + dx * item.radius) * scale, (y - top + dy * item.radius) * scale)
        for dx, dy in outline(item)
    ]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    canvas.paste(item.rgb, (left, top), mask.reduce(scale))
