"""Draw scenes, and say for every tile of a picture what each of its visual tokens shows."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .scenes import COLOURS, SHAPES, Item, Scene

TILE_PX = 448
# Patches of a whole tile in each direction; a visual token is 2x2 of them.
PATCHES = 16
# The label map is drawn with this many points per patch and direction.
POINTS = 7
_SUPERSAMPLE = 4


def outline(item: Item) -> list[tuple[float, float]]:
    """The corners of an item around (0, 0) for radius 1; a circle gets many."""
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


def _paste(canvas: Image.Image, item: Item, width: int, height: int) -> None:
    """Draw one item smoothly: a supersampled mask of its box only."""
    left = math.floor(item.x * width - item.radius) - 1
    top = math.floor(item.y * height - item.radius) - 1
    side = math.ceil(2 * item.radius) + 4
    s = _SUPERSAMPLE if side < 300 else 2
    mask = Image.new("L", (side * s, side * s))
    points = [
        (
            (item.x * width - left + dx * item.radius) * s,
            (item.y * height - top + dy * item.radius) * s,
        )
        for dx, dy in outline(item)
    ]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    canvas.paste(item.rgb, (left, top), mask.reduce(s))


def _textured(scene: Scene) -> Image.Image:
    """The background: plain, a soft gradient, fine noise or soft blotches."""
    size = scene.width, scene.height
    if scene.texture == "plain":
        return Image.new("RGB", size, scene.background)
    rng = np.random.default_rng(scene.seed)
    base = np.array(scene.background, dtype=np.float32)
    if scene.texture == "gradient":
        grid = rng.uniform(-14, 14, (2, 2, 1)).astype(np.float32)
    elif scene.texture == "blotches":
        grid = rng.uniform(-10, 10, (6, 6, 1)).astype(np.float32)
    else:
        grid = rng.normal(0, 5, (scene.height // 2 + 1, scene.width // 2 + 1, 1)).astype(np.float32)
    small = np.clip(base + grid, 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def draw_scene(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB picture, with the damage of JPEG compression where it asks for it."""
    canvas = _textured(scene)
    for item in scene.items:
        _paste(canvas, item, scene.width, scene.height)
    if not scene.jpeg_quality:
        return canvas
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=scene.jpeg_quality)
    return Image.open(buffer).convert("RGB")


def encode(scene: Scene) -> tuple[bytes, str]:
    """A scene as a file: JPEG if it names a quality, PNG if not.

    Returns:
        The bytes and their media type.
    """
    from dataclasses import replace

    buffer = io.BytesIO()
    canvas = draw_scene(replace(scene, jpeg_quality=0))
    if scene.jpeg_quality:
        canvas.save(buffer, "JPEG", quality=scene.jpeg_quality)
        return buffer.getvalue(), "image/jpeg"
    canvas.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"


@dataclass(frozen=True)
class Box:
    """A part of a picture, in parts of its width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


def tile_boxes(columns: int, rows: int) -> list[Box]:
    """The boxes of a picture's tiles in the model's order: row by row, the whole picture last."""
    boxes = [
        Box(c / columns, r / rows, (c + 1) / columns, (r + 1) / rows)
        for r in range(rows)
        for c in range(columns)
    ]
    return boxes if len(boxes) == 1 else [*boxes, Box()]


@dataclass(frozen=True)
class TileLabels:
    """What a tile's visual tokens show.

    Attributes:
        weight: (8, 8), how much of an item's centre a token holds: 1 shared among its neighbours.
        kind: (8, 8), 1 + 8 * shape + colour of the item whose centre ``weight`` tells of, or 0.
        cover: (8, 8), 1 + 8 * shape + colour of what covers most of the token, 0 for background.
        places: (9,), 1 + 8 * shape + colour of the item at every place, 0 for none, -1 if the
            tile does not show the whole picture.
        fine: (16, 16, 7, 7), the kind at 7x7 points of every patch.
        geometry: (16, 16, 4), for patches that an item touches: how far its centre is to the
            right and down, and its radii, in quarters of the tile.
    """

    weight: NDArray[np.float32]
    kind: NDArray[np.int64]
    cover: NDArray[np.int64]
    places: NDArray[np.int64]
    fine: NDArray[np.int64]
    geometry: NDArray[np.float32]


def kind_index(item: Item) -> int:
    """The class of an item: 1 + 8 * shape + colour."""
    return 1 + len(COLOURS) * SHAPES.index(item.shape) + COLOURS.index(item.colour)


def _kind_map(scene: Scene, box: Box, side: int) -> NDArray[np.int64]:
    """The kind at every point of a fine grid over a tile, (side, side)."""
    canvas = Image.new("L", (side, side))
    draw = ImageDraw.Draw(canvas)
    span_x, span_y = box.right - box.left, box.bottom - box.top
    for item in scene.items:
        rx, ry = item.radius / scene.width, item.radius / scene.height
        points = [
            (
                (item.x + dx * rx - box.left) / span_x * side,
                (item.y + dy * ry - box.top) / span_y * side,
            )
            for dx, dy in outline(item)
        ]
        draw.polygon(points, fill=kind_index(item))
    return np.asarray(canvas, dtype=np.int64)


def _blocks(fine: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Cut a square map into count x count blocks, (count, count, side, side)."""
    side = fine.shape[0] // count
    return fine.reshape(count, side, count, side).swapaxes(1, 2)


def _cover(fine: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """What covers more than half of every visual token."""
    points = _blocks(fine, cells).reshape(cells, cells, -1)
    highest = points.max(axis=-1)
    return np.where((points == highest[..., None]).mean(axis=-1) > 0.5, highest, 0)


def _geometry(scene: Scene, box: Box, touched: NDArray[np.int64]) -> NDArray[np.float32]:
    """For every patch that an item touches, where the item's centre is and how large it is."""
    patches = len(touched)
    result = np.zeros((patches, patches, 4), np.float32)
    span_x, span_y = box.right - box.left, box.bottom - box.top
    middle = (np.arange(patches) + 0.5) / patches
    for item in scene.items:
        x, y = (item.x - box.left) / span_x, (item.y - box.top) / span_y
        rx, ry = item.radius / scene.width / span_x, item.radius / scene.height / span_y
        values = np.zeros_like(result)
        values[..., 0] = x - middle[None, :]
        values[..., 1] = y - middle[:, None]
        values[..., 2:] = rx, ry
        result = np.where((touched == kind_index(item))[..., None], patches / 4 * values, result)
    return result


def _splat(labels: TileLabels, x: float, y: float, kind: int) -> None:
    """Share an item's centre (in token units) among the tokens around it."""
    x, y, cells = x - 0.5, y - 0.5, len(labels.weight)
    column, row = math.floor(x), math.floor(y)
    for i in (row, row + 1):
        for j in (column, column + 1):
            part = (1 - abs(x - j)) * (1 - abs(y - i))
            if 0 <= i < cells and 0 <= j < cells and part > labels.weight[i, j]:
                labels.weight[i, j] = part
                labels.kind[i, j] = kind


def label_tile(scene: Scene, box: Box, patches: int = PATCHES) -> TileLabels:
    """The labels of one tile of a scene, or of a smaller window of that many patches."""
    whole = box == Box() and not scene.tiny
    cells = patches // 2
    fine = _kind_map(scene, box, patches * POINTS)
    blocks = _blocks(fine, patches)
    labels = TileLabels(
        weight=np.zeros((cells, cells), np.float32),
        kind=np.zeros((cells, cells), np.int64),
        cover=_cover(fine, cells),
        places=np.zeros(9, np.int64) if whole else np.full(9, -1, np.int64),
        fine=blocks,
        geometry=_geometry(scene, box, blocks.max(axis=(2, 3))),
    )
    for item in scene.items:
        x = (item.x - box.left) / (box.right - box.left)
        y = (item.y - box.top) / (box.bottom - box.top)
        if 0 <= x < 1 and 0 <= y < 1:
            _splat(labels, x * cells, y * cells, kind_index(item))
        if whole:
            labels.places[item.place] = kind_index(item)
    return labels
