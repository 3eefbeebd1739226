"""A scene of the demo world: a few coloured shapes at named places of an image."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.demo_model.world.colours import Rgb

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
# Reading order: the index is column + 3 * row of a 3x3 grid over the image.
PLACES: tuple[str, ...] = (
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)


@dataclass(frozen=True)
class Item:
    """One coloured shape.

    Attributes:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        rgb: The exact shade.
        x: Horizontal centre as a fraction of the image's width.
        y: Vertical centre as a fraction of the image's height.
        radius: Radius of the circumscribed circle in image pixels.
        angle: Rotation in degrees.
        place: Index in ``PLACES``.
    """

    shape: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    radius: float
    angle: float
    place: int

    @property
    def name(self) -> str:
        """Colour and shape, such as ``red circle``."""
        return f"{self.colour} {self.shape}"


def symbolic_item(colour: str, shape: str, place: int) -> Item:
    """Return an item that is never rendered, with a colour, a shape and a place only."""
    return Item(shape, colour, (0, 0, 0), 0, 0, 0, 0, place)


@dataclass(frozen=True)
class Scene:
    """The complete description of an image.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        background: Mean colour of the background.
        items: The items in reading order of their places.
        texture: ``plain``, ``gradient``, ``noise`` or ``blotches``.
        jpeg_quality: Quality of the JPEG encoding, or 0 for a lossless image.
        seed: Seed of the background's texture.
        tiny: Whether the only item is too small to be recognised in the thumbnail.
    """

    width: int
    height: int
    background: Rgb
    items: tuple[Item, ...]
    texture: str = "plain"
    jpeg_quality: int = 0
    seed: int = 0
    tiny: bool = False

    def at(self, place: int) -> Item | None:
        """Return the item at a place, or None."""
        return next((item for item in self.items if item.place == place), None)

    def named(self, name: str) -> Item | None:
        """Return the item of that name, or None."""
        return next((item for item in self.items if item.name == name), None)


def symbolic_scene(items: tuple[Item, ...], *, tiny: bool = False) -> Scene:
    """Return a scene that is never rendered; it holds only what the questions need."""
    return Scene(0, 0, (0, 0, 0), items, tiny=tiny)
