"""Conversations about images in all forms: one image, two images, a video, or none."""

from __future__ import annotations

import random
from collections.abc import Callable

from scripts.demo_model.network.tokenizer import SYSTEM_TEXT
from scripts.demo_model.training.language.images import EncodedImage
from scripts.demo_model.training.language.sequences import Sequence, SequenceWriter
from scripts.demo_model.world import questions as q
from scripts.demo_model.world import wordings as w
from scripts.demo_model.world.questions import Qa

Ask = Callable[[random.Random], Qa]

_KIND_WEIGHTS = {
    "describe": 2.2,
    "count": 1.0,
    "count_of": 0.7,
    "place": 2.2,
    "where": 2.2,
    "yes_no": 0.8,
    "json": 0.25,
}
_FURTHER_TURN = 0.15


def one_image(
    writer: SequenceWriter, rng: random.Random, image: EncodedImage, count: int
) -> Sequence:
    """Ask ``count`` questions about one image."""
    _open_user_turn(writer, rng)
    writer.text("user\n")
    writer.image(image)
    _branches(writer, rng, _about(image), count, "\n")
    return writer.sequence


def image_last(writer: SequenceWriter, rng: random.Random, image: EncodedImage) -> Sequence:
    """Ask a question before its image, then further questions after the answer."""
    ask = _about(image)
    first = ask(rng)
    _open_user_turn(writer, rng)
    gap = rng.choice(("", "", "\n", " "))
    writer.text(f"user\n{q.vary(rng, first.question)}{gap}")
    writer.image(image)
    writer.text("\n")
    writer.answer(first)
    for _ in range(3):
        writer.fork()
        _further_turn(writer, rng, ask)
    return writer.sequence


def two_images(
    writer: SequenceWriter,
    rng: random.Random,
    images: tuple[EncodedImage, EncodedImage],
    count: int,
) -> Sequence:
    """Ask questions about two images, sent together or one after the other."""
    scenes = images[0].scene, images[1].scene

    def ask(rng: random.Random) -> Qa:
        draw = rng.random()
        if draw < 0.04:
            return q.who(rng)
        return q.one_of(rng, scenes) if draw < 0.2 else q.which(rng, scenes)

    _open_user_turn(writer, rng)
    writer.text("user\nImage-1: ")
    writer.image(images[0])
    if rng.random() < 0.12:
        qa = q.describe(rng, scenes[0])
        writer.text(f"\n{q.vary(rng, qa.question)}")
        writer.answer(qa)
        writer.text("\n")
        writer.control("<|im_start|>")
        writer.text("user\nImage-2: ")
    else:
        writer.text("\nImage-2: ")
    writer.image(images[1])
    _branches(writer, rng, ask, count, "\n")
    return writer.sequence


def many_turns(writer: SequenceWriter, rng: random.Random, images: list[EncodedImage]) -> Sequence:
    """Send a new image in every turn and ask about it; every answer is about the newest image."""
    writer.begin(supervised_images=0)
    writer.system(_system_text(rng))
    for number, image in enumerate(images, 1):
        ask = _about(image)
        qa = q.describe(rng, image.scene) if rng.random() < 0.5 else ask(rng)
        writer.control("<|im_start|>")
        writer.text(f"user\nImage-{number}: ")
        writer.image(image)
        writer.text(f"\n{q.vary(rng, qa.question)}")
        writer.answer(qa)
        while rng.random() < _FURTHER_TURN:
            _further_turn(writer, rng, ask)
        writer.text("\n")
    return writer.sequence


def video(
    writer: SequenceWriter, rng: random.Random, frames: list[EncodedImage], count: int
) -> Sequence:
    """Ask questions about the frames of a video of one moving shape."""
    _open_user_turn(writer, rng)
    for number, frame in enumerate(frames):
        writer.text(f"{'' if number else 'user'}\nFrame{number + 1}: ")
        writer.image(frame)
    scenes = frames[0].scene, frames[-1].scene
    _branches(writer, rng, lambda rng: q.video(rng, scenes), count, "\n")
    return writer.sequence


def no_image(writer: SequenceWriter, rng: random.Random, count: int) -> Sequence:
    """Ask questions without any image."""

    def ask(rng: random.Random) -> Qa:
        return rng.choice((q.who, q.off_topic, q.no_picture))(rng)

    writer.begin()
    writer.system(_system_text(rng))
    writer.control("<|im_start|>")
    _branches(writer, rng, ask, count, "user\n")
    return writer.sequence


def _about(image: EncodedImage) -> Ask:
    """Return a function that asks about one image, and sometimes about something else."""

    def ask(rng: random.Random) -> Qa:
        draw = rng.random()
        if image.scene.tiny:
            return q.tiny(rng, image.scene, resolved=image.has_details)
        if draw < 0.05:
            return q.who(rng)
        if draw < 0.09:
            return q.off_topic(rng)
        if draw < 0.11:
            return q.tiny(rng, image.scene)
        kind = rng.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()))[0]
        return q.ABOUT_ONE[kind](rng, image.scene)

    return ask


def _open_user_turn(writer: SequenceWriter, rng: random.Random) -> None:
    """Write the system turn, sometimes a first turn without an image, and ``<|im_start|>``."""
    writer.begin()
    writer.system(_system_text(rng))
    if rng.random() < 0.07:
        qa = rng.choice((q.who, q.off_topic))(rng)
        writer.control("<|im_start|>")
        writer.text(f"user\n{q.vary(rng, qa.question)}")
        writer.answer(qa)
        writer.text("\n")
    writer.control("<|im_start|>")


def _system_text(rng: random.Random) -> str:
    """Return the default system text most of the time."""
    return SYSTEM_TEXT if rng.random() < 0.8 else rng.choice(w.SYSTEMS)


def _branches(writer: SequenceWriter, rng: random.Random, ask: Ask, count: int, lead: str) -> None:
    """Write independent questions after the prefix, some of them with further turns."""
    for _ in range(count):
        writer.fork()
        qa = ask(rng)
        writer.text(f"{lead}{q.vary(rng, qa.question)}")
        writer.answer(qa)
        while rng.random() < _FURTHER_TURN:
            _further_turn(writer, rng, ask)


def _further_turn(writer: SequenceWriter, rng: random.Random, ask: Ask) -> None:
    qa = ask(rng)
    writer.turn(q.vary(rng, qa.question), qa)
