"""The tasks of the examination: questions of every kind about held-out scenes."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.demo_model.world import questions as q
from scripts.demo_model.world.questions import REQUIRED_KINDS, Qa
from scripts.demo_model.world.sampling import sample_scene, sample_tiny_scene
from scripts.demo_model.world.scene import Scene

# Kinds without a required score.
EXTRA_KINDS = ("count_of", "yes_no", "json", "follow_up", "picture_last", "no_picture", "off_topic")
TINY_KINDS = ("tiny_high", "tiny_low")
ALL_KINDS = (*REQUIRED_KINDS, *EXTRA_KINDS, *TINY_KINDS)
_GENERAL = {"who": q.who, "off_topic": q.off_topic, "no_picture": q.no_picture}


@dataclass(frozen=True)
class Task:
    """One question of the examination.

    Attributes:
        kind: One of ``ALL_KINDS``.
        scenes: The scenes whose images are sent.
        question: The question.
        answer: The only correct answer.
        detail: The ``detail`` of the images.
        image_last: Whether the question precedes the images.
        earlier: An earlier round of the conversation, with its answer.
    """

    kind: str
    scenes: tuple[Scene, ...]
    question: str
    answer: str
    detail: str = "auto"
    image_last: bool = False
    earlier: Qa | None = None


def make_task(kind: str, index: int, *, seed: str = "exam") -> Task:
    """Return task ``index`` of a kind; equal arguments always give the same task.

    Args:
        kind: One of ``ALL_KINDS``.
        index: Number of the task.
        seed: Another seed gives another examination. Training never uses these seeds.
    """
    rng = random.Random(f"{seed}-{kind.removesuffix('_low').removesuffix('_high')}-{index}")
    if kind in TINY_KINDS:
        scene = sample_tiny_scene(rng)
        qa = q.tiny(rng, scene)
        return Task(kind, (scene,), qa.question, qa.answer, detail=kind.removeprefix("tiny_"))
    if kind == "which":
        scenes = _two_scenes(rng)
        qa = q.which(rng, scenes, one_only=True)
        return Task(kind, scenes, q.vary(rng, qa.question), qa.answer)
    if kind in _GENERAL:
        qa = _GENERAL[kind](rng)
        has_image = kind != "no_picture" and rng.random() < 0.5
        return Task(
            kind, (sample_scene(rng),) if has_image else (), q.vary(rng, qa.question), qa.answer
        )
    return _one_scene_task(kind, rng)


def _two_scenes(rng: random.Random) -> tuple[Scene, Scene]:
    """Draw two scenes that do not show the same items."""
    while True:
        first, second = sample_scene(rng), sample_scene(rng)
        if {item.name for item in first.items} != {item.name for item in second.items}:
            return first, second


def _one_scene_task(kind: str, rng: random.Random) -> Task:
    scene = sample_scene(rng)
    kinds = list(q.ABOUT_ONE)
    asked = rng.choice(kinds) if kind in ("follow_up", "picture_last") else kind
    qa = q.ABOUT_ONE[asked](rng, scene)
    earlier = q.ABOUT_ONE[rng.choice(kinds)](rng, scene) if kind == "follow_up" else None
    question = q.vary(rng, qa.question)
    return Task(
        kind, (scene,), question, qa.answer, image_last=kind == "picture_last", earlier=earlier
    )
