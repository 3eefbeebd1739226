"""Runs the training phases; each reads what earlier phases wrote to the working folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from scripts.demo_model.network.export import export_model
from scripts.demo_model.network.forward import lower_part, upper_part
from scripts.demo_model.network.initial_model import initial_model
from scripts.demo_model.network.tokenizer import build_tokenizer
from scripts.demo_model.training.language.batch_source import LATE, LONG, Mixture
from scripts.demo_model.training.language.images import MixedImages, SyntheticImages
from scripts.demo_model.training.language.phase import Lessons, train_language
from scripts.demo_model.training.language.rendered import RenderedImages
from scripts.demo_model.training.optimisation import Schedule
from scripts.demo_model.training.tiles.pool import fill_pool
from scripts.demo_model.training.vision.coding_phase import train_coding
from scripts.demo_model.training.vision.label_phase import train_vision

PHASES = ("pool", "vision", "coding", "language", "drawn", "turns", "export")
_HELD_OUT_SHARDS = 3
# The share of rendered images in the drawn phase; the others stay synthetic.
_RENDERED_SHARE = 0.5


@dataclass(frozen=True)
class Sizes:
    """The amount of data and the number of steps of every phase.

    Attributes:
        pool_shards: Shards of rendered tiles, of 200 scenes each.
        coding_shards: How many of them the coding phase uses.
        drawn_shards: How many of them the drawn phase uses.
        vision_steps: Steps of the vision phase.
        coding_steps: Steps of the coding phase.
        language_steps: Steps of the language phase.
        drawn_steps: Steps of the drawn phase.
        turns_steps: Steps of the turns phase.
    """

    pool_shards: int = 80
    coding_shards: int = 80
    drawn_shards: int = 40
    vision_steps: int = 5700
    coding_steps: int = 4000
    language_steps: int = 2400
    drawn_steps: int = 1600
    turns_steps: int = 520


class Trainer:
    """The phases, by name.

    Args:
        work: The working folder, for the pool and the checkpoints.
        out: The checkpoint folder that the export phase writes.
        sizes: Data and steps.
    """

    def __init__(self, work: Path, out: Path, sizes: Sizes) -> None:
        self._work, self._out, self._sizes = work, out, sizes
        self._pool = work / "pool"
        self._tokenizer = build_tokenizer()
        self._model = initial_model(self._tokenizer)
        self._phases = {
            "pool": self._draw_pool,
            "vision": self._train_vision,
            "coding": self._train_coding,
            "language": self._train_language,
            "drawn": self._train_drawn,
            "turns": self._train_turns,
            "export": self._export,
        }

    def run(self, phase: str) -> None:
        """Run one of ``PHASES``."""
        self._phases[phase]()

    def _draw_pool(self) -> None:
        fill_pool(self._pool, name="held-out", shards=_HELD_OUT_SHARDS)
        fill_pool(self._pool, name="train", shards=self._sizes.pool_shards)

    def _train_vision(self) -> None:
        schedule = Schedule(self._sizes.vision_steps, matrix_rate=3e-3, other_rate=2e-3)
        train_vision(self._model.model, self._pool, self._checkpoint("vision"), schedule)

    def _train_coding(self) -> None:
        self._restore_lower_part()
        schedule = Schedule(self._sizes.coding_steps, matrix_rate=3e-3, other_rate=2e-3)
        shards = self._sizes.coding_shards
        train_coding(self._model.model, self._pool, self._checkpoint("coding"), shards, schedule)

    def _train_language(self) -> None:
        steps = self._sizes.language_steps
        schedule = Schedule(steps, matrix_rate=2.5e-3, other_rate=1.5e-3, report_every=200)
        lessons = Lessons(SyntheticImages("train"), SyntheticImages("held-out"), early=steps // 4)
        path = self._checkpoint("language")
        train_language(self._model, self._tokenizer, lessons, path, schedule)

    def _train_drawn(self) -> None:
        self._restore_vision()
        self._restore("language", "language", self._model.model.language_model)
        steps = self._sizes.drawn_steps
        schedule = Schedule(steps, matrix_rate=1.2e-3, other_rate=7e-4, report_every=200)
        self._train_with_pictures("drawn", LATE, schedule)

    def _train_turns(self) -> None:
        self._restore_vision()
        self._restore("drawn", "language", self._model.model.language_model)
        steps = self._sizes.turns_steps
        schedule = Schedule(steps, matrix_rate=1e-3, other_rate=6e-4, report_every=150)
        self._train_with_pictures("turns", LONG, schedule)

    def _train_with_pictures(self, phase: str, mixture: Mixture, schedule: Schedule) -> None:
        train = RenderedImages(self._model.model, self._pool, "train", self._sizes.drawn_shards)
        held_out = RenderedImages(self._model.model, self._pool, "held-out", _HELD_OUT_SHARDS)
        mixed = MixedImages(train, SyntheticImages("more"), _RENDERED_SHARE, "mixed")
        lessons = Lessons(mixed, held_out, mixture=mixture)
        train_language(self._model, self._tokenizer, lessons, self._checkpoint(phase), schedule)

    def _export(self) -> None:
        self._restore_vision()
        self._restore("turns", "language", self._model.model.language_model)
        export_model(self._model, self._tokenizer, self._out)
        print(f"exported to {self._out}")

    def _checkpoint(self, phase: str) -> Path:
        return self._work / f"{phase}.pt"

    def _restore_lower_part(self) -> None:
        self._restore("vision", "trained", lower_part(self._model.model))

    def _restore_vision(self) -> None:
        self._restore_lower_part()
        self._restore("coding", "upper", upper_part(self._model.model))

    def _restore(self, phase: str, key: str, module: nn.Module) -> None:
        module.load_state_dict(torch.load(self._checkpoint(phase), weights_only=True)[key])
