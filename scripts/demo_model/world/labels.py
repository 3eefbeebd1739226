"""Labels of tiles: what each visual token and each patch of a tile shows.

A *kind* is 1 + 8 * shape + colour (indices in ``SHAPES`` and ``COLOURS``), or 0 for none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.drawing import outline
from scripts.demo_model.world.scene import PLACES, SHAPES, Item, Scene

# Patches of a whole tile in each direction; a visual token covers 2x2 of them.
PATCHES = 16
# Points per patch and direction at which the kind is sampled.
POINTS = 7


@dataclass(frozen=True)
class Box:
    """A rectangle of an image, in fractions of its width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def position(self, item: Item) -> tuple[float, float]:
        """Return an item's centre in fractions of the box; outside the box if not in 0…1."""
        return (item.x - self.left) / self.width, (item.y - self.top) / self.height

    def radii(self, item: Item, scene: Scene) -> tuple[float, float]:
        """Return an item's horizontal and vertical radius in fractions of the box."""
        return (
            item.radius / scene.width / self.width,
            item.radius / scene.height / self.height,
        )

    @property
    def width(self) -> float:
        """Width as a fraction of the image's width."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height as a fraction of the image's height."""
        return self.bottom - self.top


WHOLE_IMAGE = Box()


def tile_boxes(columns: int, rows: int) -> list[Box]:
    """Return the boxes of an image's tiles in the model's order: row by row, thumbnail last."""
    boxes = [
        Box(c / columns, r / rows, (c + 1) / columns, (r + 1) / rows)
        for r in range(rows)
        for c in range(columns)
    ]
    return boxes if len(boxes) == 1 else [*boxes, WHOLE_IMAGE]


@dataclass(frozen=True)
class TileLabels:
    """Labels of one tile.

    Attributes:
        weight: (8, 8), a token's share of an item's centre; the shares of an item add up to 1.
        kind: (8, 8), kind of the item whose centre ``weight`` refers to.
        cover: (8, 8), kind of the item that covers more than half of the token.
        places: (9,), kind of the item at every place; -1 everywhere if the tile does not show
            the whole image.
        fine: (16, 16, 7, 7), kind at 7x7 points of every patch.
        geometry: (16, 16, 4), for patches that an item touches: horizontal and vertical offset of
            its centre, and its radii, in quarters of the tile.
    """

    weight: NDArray[np.float32]
    kind: NDArray[np.int64]
    cover: NDArray[np.int64]
    places: NDArray[np.int64]
    fine: NDArray[np.int64]
    geometry: NDArray[np.float32]


def kind_index(item: Item | None) -> int:
    """Return the kind of an item."""
    if item is None:
        return 0
    return 1 + len(COLOURS) * SHAPES.index(item.shape) + COLOURS.index(item.colour)


def label_tile(scene: Scene, box: Box, patches: int = PATCHES) -> TileLabels:
    """Label one tile of a scene, or a smaller window of ``patches`` x ``patches`` patches."""
    whole = box == WHOLE_IMAGE and not scene.tiny
    cells = patches // 2
    fine = _kind_map(scene, box, patches * POINTS)
    blocks = _blocks(fine, patches)
    labels = TileLabels(
        weight=np.zeros((cells, cells), np.float32),
        kind=np.zeros((cells, cells), np.int64),
        cover=_cover(fine, cells),
        places=_place_kinds(scene) if whole else np.full(9, -1, np.int64),
        fine=blocks,
        geometry=_geometry(scene, box, blocks.max(axis=(2, 3))),
    )
    for item in scene.items:
        x, y = box.position(item)
        if 0 <= x < 1 and 0 <= y < 1:
            _distribute_centre(labels, x * cells, y * cells, kind_index(item))
    return labels


def _place_kinds(scene: Scene) -> NDArray[np.int64]:
    return np.array([kind_index(scene.at(place)) for place in range(len(PLACES))], np.int64)


def _kind_map(scene: Scene, box: Box, side: int) -> NDArray[np.int64]:
    """Return the kind at every point of a fine grid over a tile, (side, side)."""
    canvas = Image.new("L", (side, side))
    draw = ImageDraw.Draw(canvas)
    for item in scene.items:
        rx, ry = item.radius / scene.width, item.radius / scene.height
        points = [
            (
                (item.x + dx * rx - box.left) / box.width * side,
                (item.y + dy * ry - box.top) / box.height * side,
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
    """Return the kind that covers more than half of every visual token."""
    points = _blocks(fine, cells).reshape(cells, cells, -1)
    highest = points.max(axis=-1)
    return np.where((points == highest[..., None]).mean(axis=-1) > 0.5, highest, 0)


def _geometry(scene: Scene, box: Box, touched: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return ``TileLabels.geometry``; ``touched`` is the kind that touches each patch."""
    patches = len(touched)
    result = np.zeros((patches, patches, 4), np.float32)
    middle = (np.arange(patches) + 0.5) / patches
    for item in scene.items:
        x, y = box.position(item)
        values = np.zeros_like(result)
        values[..., 0] = x - middle[None, :]
        values[..., 1] = y - middle[:, None]
        values[..., 2:] = box.radii(item, scene)
        result = np.where((touched == kind_index(item))[..., None], patches / 4 * values, result)
    return result


def _distribute_centre(labels: TileLabels, x: float, y: float, kind: int) -> None:
    """Distribute an item's centre, in token units, bilinearly among the tokens around it."""
    x, y, cells = x - 0.5, y - 0.5, len(labels.weight)
    column, row = math.floor(x), math.floor(y)
    for i in (row, row + 1):
        for j in (column, column + 1):
            share = (1 - abs(x - j)) * (1 - abs(y - i))
            if 0 <= i < cells and 0 <= j < cells and share > labels.weight[i, j]:
                labels.weight[i, j] = share
                labels.kind[i, j] = kind
