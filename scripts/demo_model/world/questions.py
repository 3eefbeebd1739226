"""Questions about scenes, each with its one canonical answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from scripts.demo_model.world import wordings as w
from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.off_topic import LOOSE_WORDS, OFF_TOPIC
from scripts.demo_model.world.scene import PLACES, SHAPES, Item, Scene

# The kinds of questions that have a required score.
REQUIRED_KINDS = ("describe", "count", "place", "where", "which", "who")
WHO_ANSWER = (
    "I am the small demo model shipped with this InternVL3 server. I only know simple coloured "
    "shapes; serve InternVL3 itself for real pictures."
)
NO_PICTURE_ANSWER = "I see no picture. Please send one with simple coloured shapes."
OFF_TOPIC_ANSWER = (
    "I am only a small demo model. I can describe, count and find simple coloured shapes in "
    "pictures."
)
TOO_TINY_ANSWER = "There is something tiny, but it is too small to make out at this detail."
NO_TINY_ANSWER = "There is no tiny shape in the picture."
_NUMBERS = ("no", "one", "two", "three", "four")
_AT = tuple(words[0] for words in w.AT)


@dataclass(frozen=True)
class Qa:
    """A question, its answer, and the kind of question."""

    kind: str
    question: str
    answer: str


def with_article(name: str) -> str:
    """Prefix the indefinite article: ``a red circle``, ``an orange square``."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _there_are(count: int, one: str, many: str) -> str:
    return f"There is one {one}" if count == 1 else f"There are {_NUMBERS[count]} {many}"


def description(scene: Scene) -> str:
    """Return the canonical description of a scene, in reading order."""
    parts = [f"{with_article(item.name)} {_AT[item.place]}" for item in scene.items]
    return f"{_there_are(len(parts), 'shape', 'shapes')}: {_listed(parts)}."


def _worded(rng: random.Random, templates: tuple[str, ...], **values: str) -> str:
    pic = rng.choice(("picture", "image", "picture", "image", "photo"))
    return rng.choice(templates).format(pic=pic, **values)


def vary(rng: random.Random, text: str) -> str:
    """Vary spelling, case and punctuation as users do."""
    if rng.random() < 0.4:
        text = text.replace("colour", "color")
    if rng.random() < 0.4:
        text = text.replace("centre", "center")
    if rng.random() < 0.05:
        text += rng.choice(w.SUFFIXES)
    if rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.04:
        text = text.lower()
    if rng.random() < 0.15 and text[-1] in "?.":
        text = text[:-1]
    return text


def describe(rng: random.Random, scene: Scene) -> Qa:
    """Ask for a description."""
    return Qa("describe", _worded(rng, w.DESCRIBE), description(scene))


def as_json(rng: random.Random, scene: Scene) -> Qa:
    """Ask for the shapes as JSON."""
    shapes = [
        {"colour": item.colour, "shape": item.shape, "place": PLACES[item.place]}
        for item in scene.items
    ]
    return Qa("json", _worded(rng, w.JSON), json.dumps({"shapes": shapes}))


def video(rng: random.Random, scenes: tuple[Scene, Scene]) -> Qa:
    """Ask how the shape of a video moves, given the scenes of its first and last frame."""
    item, last = scenes[0].items[0], scenes[1].items[0]
    start, end = (_AT[i.place].split(" ", 1)[1] for i in (item, last))
    answer = f"The {item.name} moves from {start} to {end}."
    return Qa("video", _worded(rng, w.VIDEO), answer)


def count(rng: random.Random, scene: Scene) -> Qa:
    """Ask for the number of shapes."""
    answer = f"{_there_are(len(scene.items), 'shape', 'shapes')} in the picture."
    return Qa("count", _worded(rng, w.COUNT), answer)


def count_of(rng: random.Random, scene: Scene) -> Qa:
    """Ask for the number of shapes of one colour or of one shape."""
    if rng.random() < 0.6:
        shape = rng.choice((rng.choice(scene.items).shape, rng.choice(SHAPES)))
        number, one = sum(i.shape == shape for i in scene.items), shape
    else:
        colour = rng.choice((rng.choice(scene.items).colour, rng.choice(COLOURS)))
        number, one = sum(i.colour == colour for i in scene.items), f"{colour} shape"
    answer = f"{_there_are(number, one, one + 's')} in the picture."
    return Qa("count_of", _worded(rng, w.COUNT_OF, items=one + "s"), answer)


def _some_place(rng: random.Random, scene: Scene) -> int:
    free = [place for place in range(9) if scene.at(place) is None]
    return rng.choice(free) if rng.random() < 0.2 else rng.choice(scene.items).place


def place(rng: random.Random, scene: Scene) -> Qa:
    """Ask for the colour, the shape or the item at a place."""
    where = _some_place(rng, scene)
    item, at, words = scene.at(where), _AT[where], rng.choice(w.AT[where])
    kind = rng.randrange(3)
    question = _worded(rng, (w.COLOUR_AT, w.SHAPE_AT, w.WHAT_AT)[kind], at=words)
    if item is None:
        answer = f"There is no shape {at}."
    elif kind == 0:
        answer = f"The shape {at} is {item.colour}."
    elif kind == 1:
        answer = f"The shape {at} is {with_article(item.shape)}."
    else:
        answer = f"There is {with_article(item.name)} {at}."
    return Qa("place", question, answer)


def _absent(rng: random.Random, items: list[Item]) -> str:
    """Return the name of an absent item, often one that shares colour or shape with a present one."""
    present = {item.name for item in items}
    while True:
        near = rng.choice(items)
        colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
        mode = rng.random()
        colour = near.colour if mode < 0.35 else colour
        shape = near.shape if mode > 0.65 else shape
        if f"{colour} {shape}" not in present:
            return f"{colour} {shape}"


def where_answer(scene: Scene, name: str) -> str:
    """Return the answer that names the item's place or says that it is absent."""
    item = scene.named(name)
    return f"The {name} is {_AT[item.place]}." if item else f"There is no {name} in the picture."


def _asked_name(rng: random.Random, scene: Scene, absent: float) -> str:
    there = rng.random() >= absent
    return rng.choice(scene.items).name if there else _absent(rng, list(scene.items))


def where(rng: random.Random, scene: Scene) -> Qa:
    """Ask for the place of an item."""
    name = _asked_name(rng, scene, 0.25)
    return Qa("where", _worded(rng, w.WHERE, item=name), where_answer(scene, name))


def yes_no(rng: random.Random, scene: Scene) -> Qa:
    """Ask whether an item is present."""
    name = _asked_name(rng, scene, 0.5)
    item = scene.named(name)
    yes = f"Yes, there is {with_article(name)} {_AT[item.place]}." if item else ""
    answer = yes or f"No, there is no {name} in the picture."
    return Qa("yes_no", _worded(rng, w.YES_NO, a=with_article(name)), answer)


def tiny(rng: random.Random, scene: Scene, *, resolved: bool = True) -> Qa:
    """Ask for the tiny shape of a large image; it is recognisable only if ``resolved``."""
    question = _worded(rng, w.TINY)
    if not scene.tiny:
        return Qa("no_tiny", question, NO_TINY_ANSWER)
    answer = f"The tiny shape is {with_article(scene.items[0].name)}."
    return Qa("tiny", question, answer if resolved else TOO_TINY_ANSWER)


def which(rng: random.Random, scenes: tuple[Scene, Scene], *, one_only: bool = False) -> Qa:
    """Ask which of two images contains an item."""
    first, second = ({item.name for item in scene.items} for scene in scenes)
    single, both = sorted(first ^ second), sorted(first & second)
    draw = rng.random()
    if single and (one_only or draw < 0.8):
        name = rng.choice(single)
        answer = f"Image-{1 if name in first else 2} contains {with_article(name)}."
    elif both and draw < 0.9:
        name = rng.choice(both)
        answer = f"Both images contain {with_article(name)}."
    else:
        name = _absent(rng, [*scenes[0].items, *scenes[1].items])
        answer = f"Neither image contains {with_article(name)}."
    return Qa("which", _worded(rng, w.WHICH, item=name, a=with_article(name)), answer)


def one_of(rng: random.Random, scenes: tuple[Scene, Scene]) -> Qa:
    """Ask for a description of one of two images."""
    index = rng.randrange(2)
    question = _worded(rng, w.ONE_OF, n=str(index + 1), nth=("first", "second")[index])
    return Qa("one_of", question, description(scenes[index]))


def who(rng: random.Random) -> Qa:
    """Greet the model or ask who it is."""
    return Qa("who", rng.choice(w.WHO), WHO_ANSWER)


def off_topic(rng: random.Random) -> Qa:
    """Ask for something outside the demo world."""
    if rng.random() < 0.5:
        return Qa("off_topic", rng.choice(OFF_TOPIC), OFF_TOPIC_ANSWER)
    words = [rng.choice(LOOSE_WORDS) for _ in range(rng.randint(2, 9))]
    text = " ".join(words).capitalize() + rng.choice("?.")
    return Qa("off_topic", text, OFF_TOPIC_ANSWER)


def no_picture(rng: random.Random) -> Qa:
    """Ask about an image that was not sent."""
    name = f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}"
    at = rng.choice(rng.choice(w.AT))
    templates = rng.choice((w.DESCRIBE, w.COUNT, w.COLOUR_AT, w.WHAT_AT, w.WHERE, w.YES_NO, w.TINY))
    question = _worded(rng, templates, at=at, item=name, a=with_article(name))
    return Qa("no_picture", question, NO_PICTURE_ANSWER)


ABOUT_ONE: dict[str, Callable[[random.Random, Scene], Qa]] = {
    "describe": describe,
    "count": count,
    "count_of": count_of,
    "place": place,
    "where": where,
    "yes_no": yes_no,
    "json": as_json,
}
