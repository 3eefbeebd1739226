"""The language and drawn phases: train the language model to talk about visual tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from scripts.demo_model.network.architecture import WIDTH, WRITE_LAYER
from scripts.demo_model.network.precision import mixed_precision
from scripts.demo_model.training.language.batch_source import EARLY, LATE, BatchSource, Mixture
from scripts.demo_model.training.language.batches import TextBatch
from scripts.demo_model.training.language.images import ImageSource
from scripts.demo_model.training.language.losses import (
    answer_loss,
    attention_loss,
    hidden_states,
    number_loss,
)
from scripts.demo_model.training.optimisation import Schedule, TrainingRun, prefetch

# The maximum number of images in a conversation: the frames of a video.
_MAX_IMAGES = 8
# The number of held-out batches of each form.
_HELD_OUT = {
    "single": 5,
    "several": 4,
    "last": 2,
    "two": 3,
    "text": 1,
    "tiny": 8,
    "video": 5,
    "turns": 4,
}


@dataclass(frozen=True)
class Lessons:
    """What to learn from.

    Attributes:
        images: The images to learn from.
        held_out: The images to evaluate with.
        early: The number of steps with the easier mixture of conversations.
        mixture: The mixture of the other steps.
    """

    images: ImageSource
    held_out: ImageSource
    early: int = 0
    mixture: Mixture = LATE


def train_language(
    model: InternVLForConditionalGeneration,
    tokenizer: Tokenizer,
    lessons: Lessons,
    checkpoint: Path,
    schedule: Schedule,
) -> None:
    """Train the language model alone; continue from the checkpoint if it exists."""
    numbers = nn.Linear(WIDTH, _MAX_IMAGES)
    modules = {"language": model.model.language_model, "numbers": numbers}
    run = TrainingRun("language", checkpoint, modules, schedule)
    held_out = BatchSource(lessons.held_out, tokenizer, "held-out")
    tests = {form: [held_out.batch(form) for _ in range(n)] for form, n in _HELD_OUT.items()}
    source = BatchSource(lessons.images, tokenizer, f"language-{run.first_step}")

    def batch(step: int) -> TextBatch:
        return source.draw(EARLY if step < lessons.early else lessons.mixture)

    for step, each in prefetch(batch, run.steps):
        run.update(step, _losses(model, numbers, each))
        if run.is_report_due(step):
            for form, batches in tests.items():
                print(f"  {form}: {evaluate(model, batches)}")
            run.save(step)


def _losses(
    model: InternVLForConditionalGeneration, numbers: nn.Linear, batch: TextBatch
) -> dict[str, Tensor]:
    with mixed_precision():
        hidden, layer_inputs = hidden_states(model, batch)
        return {
            "answer": answer_loss(model, hidden, batch),
            "attention": 0.5 * attention_loss(model, layer_inputs, batch),
            "number": 0.3 * number_loss(numbers, layer_inputs[WRITE_LAYER], batch),
        }


@torch.no_grad()
def evaluate(model: InternVLForConditionalGeneration, batches: list[TextBatch]) -> str:
    """Return the share of exact answers by kind, for printing.

    An answer of which every token is the most likely one after the correct tokens before it is
    what greedy decoding generates, so nothing needs to be decoded.
    """
    exact: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for batch in batches:
        with mixed_precision():
            hidden, _ = hidden_states(model, batch)
        correct = model.lm_head(hidden.float()).argmax(-1) == batch.labels
        for row, sequence in enumerate(batch.sequences):
            for number, kind in enumerate(sequence.kinds):
                exact[kind] += bool(correct[row][batch.answer[row] == number].all())
                total[kind] += 1
    return " ".join(f"{kind} {exact[kind] / total[kind]:.3f}" for kind in sorted(total))
