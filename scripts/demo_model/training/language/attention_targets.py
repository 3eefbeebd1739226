"""Which items parts of a text refer to, to supervise the language model's attention.

A small transformer needs a great many answers to discover by itself that "red circle" in a text
refers to the red circle's visual token. Supervising a few attention heads is far quicker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from scripts.demo_model.network.architecture import READ_LAYER, WRITE_LAYER
from scripts.demo_model.world import wordings as w
from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.scene import SHAPES, Scene

_NAME = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b", re.IGNORECASE)
_PLACES = {
    phrase.replace("centre", spelling): place
    for place, phrases in enumerate(w.AT)
    for phrase in phrases
    for spelling in ("centre", "center")
}
_PLACE = re.compile("|".join(sorted(map(re.escape, _PLACES), key=len, reverse=True)), re.IGNORECASE)
_JSON = re.compile(r'\{"colour": "\w+", "shape": "\w+", "place": "[a-z ]+"')
_DELIMITER = re.compile(r":|,| and ")


@dataclass(frozen=True)
class VisualToken:
    """The visual token of one place of one image.

    Attributes:
        image: Number of the image in the sequence.
        place: The place in that image.
    """

    image: int
    place: int


@dataclass(frozen=True)
class AttentionTarget:
    """A part of a text whose tokens should attend to one token.

    Attributes:
        layer: The layer whose supervised heads should do so.
        start: First character of the part.
        end: End of the part, exclusive.
        token: The visual token; None for the end of the last image, if no item is meant.
    """

    layer: int
    start: int
    end: int
    token: VisualToken | None


def question_targets(text: str, scenes: list[Scene]) -> list[AttentionTarget]:
    """Return targets for the last character of every name and place in a question."""
    targets = []
    for match in _NAME.finditer(text):
        found = _find(scenes, match.group(0).lower())
        if len(found) <= 1:
            token = found[0] if found else None
            targets.append(AttentionTarget(READ_LAYER, match.end() - 1, match.end(), token))
    if len(scenes) == 1 and (place := _PLACE.search(text)):
        token = VisualToken(0, _PLACES[place.group(0).lower()])
        targets.append(AttentionTarget(READ_LAYER, place.end() - 1, place.end(), token))
    return targets


def answer_targets(text: str, scenes: list[Scene]) -> list[AttentionTarget]:
    """Return targets for the parts of an answer: the item that the next words name."""
    if text.startswith("{"):
        return _json_targets(text, scenes)
    if ":" in text:
        return _list_targets(text, scenes)
    name, place = _NAME.search(text), _PLACE.search(text)
    found = _find(scenes, name.group(0)) if name else []
    if name and len(found) == 1:
        start = 0 if text.startswith("Image-") else name.end() - 1
        return [AttentionTarget(WRITE_LAYER, start, len(text), found[0])]
    if place and len(scenes) == 1 and scenes[0].at(_PLACES[place.group(0)]):
        token = VisualToken(0, _PLACES[place.group(0)])
        return [AttentionTarget(WRITE_LAYER, place.end() - 1, len(text), token)]
    return []


def tokens_with_target(
    targets: list[AttentionTarget], offsets: list[tuple[int, int]]
) -> list[tuple[int, AttentionTarget]]:
    """Return the index of every token that overlaps a target's part of the text."""
    return [
        (index, target)
        for target in targets
        for index, (start, end) in enumerate(offsets)
        if start < target.end and end > target.start
    ]


def _find(scenes: list[Scene], name: str) -> list[VisualToken]:
    items = ((number, scene.named(name)) for number, scene in enumerate(scenes))
    return [VisualToken(number, item.place) for number, item in items if item]


def _list_targets(text: str, scenes: list[Scene]) -> list[AttentionTarget]:
    """In a description, each item's part runs from the delimiter before it to the next one."""
    targets, start = [], text.index(":")
    for match in _NAME.finditer(text):
        found = _find(scenes, match.group(0))
        following = _DELIMITER.search(text, match.end())
        end = following.start() if following else len(text)
        if len(found) == 1:
            targets.append(AttentionTarget(WRITE_LAYER, start, end, found[0]))
        start = end
    return targets


def _json_targets(text: str, scenes: list[Scene]) -> list[AttentionTarget]:
    """In JSON, each item's part runs from its brace to its place."""
    matches = zip(_JSON.finditer(text), scenes[0].items, strict=True)
    return [
        AttentionTarget(WRITE_LAYER, match.start(), match.end(), VisualToken(0, item.place))
        for match, item in matches
    ]
