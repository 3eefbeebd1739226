"""The demo model's exam: held-out scenes and questions of every kind, and their scores."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from . import questions as q
from .questions import BAR_KINDS, Qa
from .scenes import Scene, sample_scene, sample_tiny_scene

# Asked too, but not part of the acceptance bar.
EXTRA_KINDS = ("count_of", "yes_no", "json", "follow_up", "picture_last", "no_picture", "off_topic")
TINY_KINDS = ("tiny_high", "tiny_low")
ALL_KINDS = (*BAR_KINDS, *EXTRA_KINDS, *TINY_KINDS)


@dataclass(frozen=True)
class Task:
    """One question of the exam.

    Attributes:
        kind: The kind of question, one of ``ALL_KINDS``.
        scenes: The pictures that are sent.
        question: What is asked about them.
        answer: The one right answer.
        detail: How closely the server shall look.
        picture_last: Whether the question stands before the picture.
        earlier: A question that was asked, and answered, before.
    """

    kind: str
    scenes: tuple[Scene, ...]
    question: str
    answer: str
    detail: str = "auto"
    picture_last: bool = False
    earlier: Qa | None = None


def _pair(rng: random.Random) -> tuple[Scene, Scene]:
    """Two scenes, each of items that the other one mostly does not have."""
    while True:
        pair = sample_scene(rng), sample_scene(rng)
        names = [{item.name for item in scene.items} for scene in pair]
        if names[0] ^ names[1]:
            return pair


def _one_scene_task(kind: str, rng: random.Random) -> Task:
    scene = sample_scene(rng)
    ask = rng.choice(list(q.ABOUT_ONE)) if kind in ("follow_up", "picture_last") else kind
    qa = q.ABOUT_ONE[ask](rng, scene)
    earlier = (
        q.ABOUT_ONE[rng.choice(list(q.ABOUT_ONE))](rng, scene) if kind == "follow_up" else None
    )
    return Task(
        kind,
        (scene,),
        q.vary(rng, qa.question),
        qa.answer,
        picture_last=kind == "picture_last",
        earlier=earlier,
    )


def make_task(kind: str, index: int, *, seed: str = "exam") -> Task:
    """Question number ``index`` of a kind; always the same one.

    Args:
        kind: One of ``ALL_KINDS``.
        index: Number of the question.
        seed: Another seed gives another exam; training never uses these seeds.
    """
    rng = random.Random(f"{seed}-{kind.removesuffix('_low').removesuffix('_high')}-{index}")
    if kind in TINY_KINDS:
        scene = sample_tiny_scene(rng)
        qa = q.tiny(rng, scene)
        return Task(kind, (scene,), qa.question, qa.answer, detail=kind.removeprefix("tiny_"))
    if kind == "which":
        pair = _pair(rng)
        qa = q.which(rng, pair, one_only=True)
        return Task(kind, pair, q.vary(rng, qa.question), qa.answer)
    if kind in ("who", "off_topic", "no_picture"):
        qa = {"who": q.who, "off_topic": q.off_topic, "no_picture": q.no_picture}[kind](rng)
        scenes = (sample_scene(rng),) if kind != "no_picture" and rng.random() < 0.5 else ()
        return Task(kind, scenes, q.vary(rng, qa.question), qa.answer)
    return _one_scene_task(kind, rng)


@dataclass
class Score:
    """Right and all answers of a kind, and some of the wrong ones."""

    right: int = 0
    total: int = 0
    wrong: list[tuple[Task, str]] | None = None

    def add(self, task: Task, answer: str) -> None:
        """Count an answer: right only if it is exactly the expected one."""
        self.total += 1
        if answer.strip() == task.answer:
            self.right += 1
        else:
            self.wrong = [*(self.wrong or []), (task, answer)]

    @property
    def part(self) -> float:
        """Right answers as a part of all."""
        return self.right / self.total if self.total else 0.0


def table(scores: dict[str, Score]) -> str:
    """The scores as a plain text table."""
    lines = [f"{'kind':<14}{'right':>7}{'of':>7}{'exact':>9}   bar"]
    for kind, score in scores.items():
        bar = ""
        if kind in BAR_KINDS:
            bar = "reached" if score.part >= 0.95 else "MISSED"
        elif kind == "tiny_high":
            bar = "reached" if score.part >= 0.90 else "MISSED"
        elif kind == "tiny_low":
            bar = "reached" if score.part < 0.90 else "MISSED"
        lines.append(
            f"{kind:<14}{score.right:>7}{score.total:>7}{score.part:>9.1%}   {bar}".rstrip()
        )
    return "\n".join(lines)


def mistakes(scores: dict[str, Score], each: int) -> Iterable[str]:
    """A few wrong answers of every kind."""
    for kind, score in scores.items():
        for task, answer in (score.wrong or [])[:each]:
            sizes = ", ".join(f"{s.width}x{s.height}" for s in task.scenes)
            yield f"{kind} [{sizes}] {task.question!r}\n  wanted {task.answer!r}\n  got    {answer!r}"
