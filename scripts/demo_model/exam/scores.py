"""Scores of the examination."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from scripts.demo_model.exam.tasks import Task
from scripts.demo_model.world.questions import REQUIRED_KINDS

_REQUIRED = 0.95
_REQUIRED_TINY = 0.90


@dataclass
class Score:
    """Exact and all answers of one kind, and the wrong ones."""

    exact: int = 0
    total: int = 0
    wrong: list[tuple[Task, str]] = field(default_factory=list)

    def add(self, task: Task, answer: str) -> None:
        """Count an answer; it is correct only if it is exactly the expected one."""
        self.total += 1
        if answer.strip() == task.answer:
            self.exact += 1
        else:
            self.wrong.append((task, answer))

    @property
    def share(self) -> float:
        """Exact answers as a fraction of all."""
        return self.exact / self.total if self.total else 0.0


def verdict(kind: str, score: Score) -> bool | None:
    """Return whether a kind reaches its required score; None if none is required.

    Tiny shapes must be recognised with ``detail: high`` but not with ``detail: low``.
    """
    if kind in REQUIRED_KINDS:
        return score.share >= _REQUIRED
    if kind == "tiny_high":
        return score.share >= _REQUIRED_TINY
    return score.share < _REQUIRED_TINY if kind == "tiny_low" else None


def format_table(scores: dict[str, Score]) -> str:
    """Format the scores as a plain text table."""
    words = {True: "reached", False: "MISSED", None: ""}
    lines = [f"{'kind':<14}{'exact':>7}{'of':>7}{'share':>9}   required"]
    for kind, score in scores.items():
        result = words[verdict(kind, score)]
        line = f"{kind:<14}{score.exact:>7}{score.total:>7}{score.share:>9.1%}   {result}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def format_mistakes(scores: dict[str, Score], each: int) -> Iterator[str]:
    """Format the first wrong answers of every kind."""
    for kind, score in scores.items():
        for task, answer in score.wrong[:each]:
            sizes = ", ".join(f"{scene.width}x{scene.height}" for scene in task.scenes)
            yield (
                f"{kind} [{sizes}] {task.question!r}\n"
                f"  expected {task.answer!r}\n  received {answer!r}"
            )
