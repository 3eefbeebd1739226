"""Conversations as token sequences that share an image among many questions.

A sequence is a shared prefix (system text, images) and several branches that each ask something.
Branches cannot see each other and all begin at the same position, so each is trained exactly as
if it stood alone after the prefix, at a fraction of the work.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenizers import Encoding, Tokenizer

from . import questions as q
from . import wordings as w
from .looks import Look, answer_looks, question_looks, token_looks
from .modelling import TOKENS_PER_TILE
from .questions import Qa
from .symbols import Picture
from .tokenizer import SYSTEM_TEXT

IGNORE = -100


@dataclass
class Sequence:
    """Tokens of a prefix and its branches.

    Attributes:
        ids: Token ids.
        branch: 0 for the prefix, else the number of the token's branch.
        position: Position of every token, counted along its own branch.
        labels: The token itself inside answers, ``IGNORE`` elsewhere.
        answer: Number of the answer that a token belongs to, -1 elsewhere.
        kinds: The kind of every answer.
        pictures: The pictures in the order of their places in ``ids``.
        image_ends: Index of the ``</img>`` token of every picture.
        looks: Tokens that should look at an item.
    """

    ids: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    image_ends: list[int] = field(default_factory=list)
    looks: list[tuple[int, Look]] = field(default_factory=list)


class Writer:
    """Writes sequences in the ``internvl2_5`` form, span by span like the server."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = {
            name: tokenizer.token_to_id(name)
            for name in ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
        }
        self._cache: dict[str, Encoding] = {}
        self.sequence = Sequence()
        self._branch = self._start = self._at = 0

    def begin(self) -> None:
        """Start a new sequence."""
        self.sequence = Sequence()
        self._branch = self._start = self._at = 0

    def fork(self) -> None:
        """Start the next branch where the prefix ended."""
        if self._branch == 0:
            self._start = self._at
        self._branch += 1
        self._at = self._start

    def _put(self, ids: list[int], *, answer: int = -1) -> None:
        s = self.sequence
        s.ids += ids
        s.branch += [self._branch] * len(ids)
        s.position += range(self._at, self._at + len(ids))
        s.labels += ids if answer >= 0 else [IGNORE] * len(ids)
        s.answer += [answer] * len(ids)
        self._at += len(ids)

    def text(self, text: str, *, answer: int = -1) -> None:
        """Write a span of text; a span must not be split over two calls."""
        if text not in self._cache:
            self._cache[text] = self._tokenizer.encode(text)
        encoding, first = self._cache[text], len(self.sequence.ids)
        self._put(encoding.ids, answer=answer)
        scenes = [picture.scene for picture in self.sequence.pictures]
        if scenes and len(scenes) < 3 and not any(scene.tiny for scene in scenes):
            looks = (question_looks if answer < 0 else answer_looks)(text, scenes)
            found = token_looks(looks, encoding.offsets)
            self.sequence.looks += [(first + index, look) for index, look in found]

    def control(self, name: str, *, answer: int = -1) -> None:
        """Write a control token."""
        self._put([self._control[name]], answer=answer)

    def image(self, picture: Picture) -> None:
        """Write an image's place."""
        self.control("<img>")
        self._put([self._control["<IMG_CONTEXT>"]] * (TOKENS_PER_TILE * len(picture.features)))
        self.sequence.image_ends.append(len(self.sequence.ids))
        self.control("</img>")
        self.sequence.pictures.append(picture)

    def system(self, text: str) -> None:
        """Write the system turn."""
        self.control("<|im_start|>")
        self.text(f"system\n{text}")
        self.control("<|im_end|>")
        self.text("\n")

    def answer(self, qa: Qa) -> None:
        """End the user's turn and write the assistant's, which is what the loss counts."""
        self.control("<|im_end|>")
        self.text("\n")
        self.control("<|im_start|>")
        self.text("assistant\n")
        number = len(self.sequence.kinds)
        self.sequence.kinds.append(qa.kind)
        self.text(qa.answer, answer=number)
        self.control("<|im_end|>", answer=number)

    def turn(self, qa: Qa, rng: random.Random) -> None:
        """A further turn about what came before."""
        self.text("\n")
        self.control("<|im_start|>")
        self.text(f"user\n{q.vary(rng, qa.question)}")
        self.answer(qa)


Ask = Callable[[random.Random], Qa]
_WEIGHTS = {
    "describe": 2.2,
    "count": 1.0,
    "count_of": 0.7,
    "place": 2.2,
    "where": 2.2,
    "yes_no": 0.8,
    "json": 0.25,
}


def system_text(rng: random.Random) -> str:
    """The default system text most of the time."""
    return SYSTEM_TEXT if rng.random() < 0.8 else rng.choice(w.SYSTEMS)


def about(picture: Picture) -> Ask:
    """Questions about one picture, and now and then about something else."""

    def ask(rng: random.Random) -> Qa:
        draw = rng.random()
        if picture.scene.tiny:
            return q.tiny(rng, picture.scene, resolved=picture.resolved)
        if draw < 0.05:
            return q.who(rng)
        if draw < 0.09:
            return q.off_topic(rng)
        if draw < 0.11:
            return q.tiny(rng, picture.scene)
        kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        return q.ABOUT_ONE[kind](rng, picture.scene)

    return ask


def _branches(writer: Writer, rng: random.Random, ask: Ask, count: int, lead: str) -> None:
    """Independent questions after the prefix, a quarter of them with further turns."""
    for _ in range(count):
        writer.fork()
        qa = ask(rng)
        writer.text(f"{lead}{q.vary(rng, qa.question)}")
        writer.answer(qa)
        while rng.random() < 0.15:
            writer.turn(ask(rng), rng)


def _open_user(writer: Writer, rng: random.Random) -> None:
    """The system turn, now and then a first turn without a picture, and "user"."""
    writer.begin()
    writer.system(system_text(rng))
    if rng.random() < 0.07:
        qa = rng.choice((q.who, q.off_topic))(rng)
        writer.control("<|im_start|>")
        writer.text(f"user\n{q.vary(rng, qa.question)}")
        writer.answer(qa)
        writer.text("\n")
    writer.control("<|im_start|>")


def one_picture(writer: Writer, rng: random.Random, picture: Picture, count: int) -> Sequence:
    """Many questions about one picture."""
    _open_user(writer, rng)
    writer.text("user\n")
    writer.image(picture)
    _branches(writer, rng, about(picture), count, "\n")
    return writer.sequence


def picture_last(writer: Writer, rng: random.Random, picture: Picture) -> Sequence:
    """A question that comes before its picture, then questions after it."""
    ask = about(picture)
    first = ask(rng)
    _open_user(writer, rng)
    gap = rng.choice(("", "", "\n", " "))
    writer.text(f"user\n{q.vary(rng, first.question)}{gap}")
    writer.image(picture)
    writer.text("\n")
    writer.answer(first)
    for _ in range(3):
        writer.fork()
        writer.turn(ask(rng), rng)
    return writer.sequence


def two_pictures(
    writer: Writer, rng: random.Random, pictures: tuple[Picture, Picture], count: int
) -> Sequence:
    """Questions about two pictures, sent together or one after the other."""
    scenes = pictures[0].scene, pictures[1].scene

    def ask(rng: random.Random) -> Qa:
        draw = rng.random()
        if draw < 0.04:
            return q.who(rng)
        return q.one_of(rng, scenes) if draw < 0.2 else q.which(rng, scenes)

    _open_user(writer, rng)
    writer.text("user\nImage-1: ")
    writer.image(pictures[0])
    if rng.random() < 0.12:
        qa = q.describe(rng, scenes[0])
        writer.text(f"\n{q.vary(rng, qa.question)}")
        writer.answer(qa)
        writer.text("\n")
        writer.control("<|im_start|>")
        writer.text("user\nImage-2: ")
    else:
        writer.text("\nImage-2: ")
    writer.image(pictures[1])
    _branches(writer, rng, ask, count, "\n")
    return writer.sequence


def video(writer: Writer, rng: random.Random, frames: list[Picture], count: int) -> Sequence:
    """Questions about the frames of a video of one moving shape."""
    _open_user(writer, rng)
    for number, frame in enumerate(frames):
        writer.text(f"{'' if number else 'user'}\nFrame{number + 1}: ")
        writer.image(frame)
    scenes = frames[0].scene, frames[-1].scene
    _branches(writer, rng, lambda rng: q.video(rng, scenes), count, "\n")
    return writer.sequence


def no_picture(writer: Writer, rng: random.Random, count: int) -> Sequence:
    """Talk without any picture."""

    def ask(rng: random.Random) -> Qa:
        return rng.choice((q.who, q.off_topic, q.no_picture))(rng)

    writer.begin()
    writer.system(system_text(rng))
    writer.control("<|im_start|>")
    _branches(writer, rng, ask, count, "user\n")
    return writer.sequence
