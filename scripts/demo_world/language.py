"""Phase B: teach the language model to talk about the visual tokens of many pictures."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from . import conversations as c
from .batching import TextBatch
from .looks import look_loss, look_targets
from .modelling import TOKENS_PER_TILE, WIDTH, load_state, optimisers, save_state, set_rate
from .source import EARLY, LATE, Pictures, Source
from .symbols import PLACE_TOKENS, WRITE_LAYER

# Of one conversation, as far as it is trained: the frames of a video.
MOST_PICTURES = 8


def hidden_states(
    model: InternVLForConditionalGeneration, batch: TextBatch, image_token: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The language model's last hidden states, and those that enter every layer."""
    embedded = model.get_input_embeddings()(batch.ids)
    there = (batch.ids == image_token)[..., None]
    if len(batch.features):
        embedded = embedded.masked_scatter(there, batch.features.to(embedded.dtype))
    output = model.model.language_model(
        inputs_embeds=embedded,
        attention_mask=batch.mask,
        position_ids=batch.position,
        output_hidden_states=True,
        use_cache=False,
    )
    return output.last_hidden_state, output.hidden_states


def number_loss(numbers: nn.Linear, hidden: Tensor, batch: TextBatch) -> Tensor:
    """Cross-entropy of which of several pictures a visual token belongs to.

    Nothing in the token itself says so; the label before the picture does.
    """
    number = torch.cat([torch.arange(len(s.image_ends)) for s in batch.sequences])
    several = torch.cat(
        [torch.full((n,), n > 1) for n in (len(s.image_ends) for s in batch.sequences)]
    )
    if not several.any():
        return hidden.sum() * 0
    rows, ends = batch.ends[several].unbind(1)
    tokens = ends[:, None] - TOKENS_PER_TILE + torch.tensor(PLACE_TOKENS)
    logits = numbers(hidden[rows[:, None], tokens].float())
    wanted = number[several][:, None].expand(-1, len(PLACE_TOKENS))
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())


def answer_loss(
    model: InternVLForConditionalGeneration, hidden: Tensor, batch: TextBatch
) -> Tensor:
    """Cross-entropy of the answers' tokens only."""
    wanted = batch.labels != c.IGNORE
    logits = model.lm_head(hidden[wanted]).float()
    return F.cross_entropy(logits, batch.labels[wanted])


@torch.no_grad()
def exact_answers(
    model: InternVLForConditionalGeneration, batches: list[TextBatch], image_token: int
) -> dict[str, tuple[int, int]]:
    """Exact and all answers by kind.

    An answer whose every token is the likeliest one after the right tokens before it is just
    what greedy decoding writes, so no decoding is needed.
    """
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, _ = hidden_states(model, batch, image_token)
        right = model.lm_head(hidden.float()).argmax(-1) == batch.labels
        for row, sequence in enumerate(batch.sequences):
            for number, kind in enumerate(sequence.kinds):
                ok = bool(right[row][batch.answer[row] == number].all())
                found[kind][0] += ok
                found[kind][1] += 1
    return {kind: (ok, total) for kind, (ok, total) in sorted(found.items())}


def report(found: dict[str, tuple[int, int]]) -> str:
    """Exact answers by kind in one line."""
    return " ".join(f"{kind} {ok / total:.3f}" for kind, (ok, total) in found.items())


@dataclass(frozen=True)
class Plan:
    """How long to train, and how fast.

    Attributes:
        steps: How many steps in all.
        early: How many of these use the easier mixture.
        matrix_rate: Peak learning rate of Muon.
        other_rate: Peak learning rate of AdamW.
        report_every: Steps between two examinations and checkpoints.
    """

    steps: int
    early: int
    matrix_rate: float = 3e-3
    other_rate: float = 2e-3
    report_every: int = 200


def train_language(
    model: InternVLForConditionalGeneration,
    tokenizer: Tokenizer,
    pictures: tuple[Pictures, Pictures],
    checkpoint: Path,
    plan: Plan,
) -> None:
    """Train the language model alone; go on from the checkpoint if there is one.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        pictures: Those to learn from, and those to examine with.
        checkpoint: Where the state is kept.
        plan: How long.
    """
    image_token = model.config.image_token_id
    language = model.model.language_model
    numbers = nn.Linear(WIDTH, MOST_PICTURES)
    modules = {"language": language, "numbers": numbers}
    groups = optimisers(
        language, list(numbers.parameters()), matrix_lr=plan.matrix_rate, other_lr=plan.other_rate
    )
    first = load_state(checkpoint, modules, groups)
    held_out = Source(pictures[1], tokenizer, "held-out")
    tests = {form: [held_out.batch(form) for _ in range(n)] for form, n in _TESTS.items()}
    source = Source(pictures[0], tokenizer, f"language-{first}")
    began, means = time.time(), [0.0, 0.0, 0.0]
    for step, batch in _batches(source, first, plan):
        set_rate(groups, step, plan.steps, 100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, layers = hidden_states(model, batch, image_token)
            loss = answer_loss(model, hidden, batch)
            looks = look_loss(model, layers, batch.mask, batch.position, look_targets(batch))
            number = number_loss(numbers, layers[WRITE_LAYER], batch)
        (loss + 0.5 * looks + 0.3 * number).backward()
        nn.utils.clip_grad_norm_(language.parameters(), 1.0)
        for optimiser in groups:
            optimiser.step()
            optimiser.zero_grad()
        parts = (loss, looks, number)
        means = [0.98 * m + 0.02 * v.item() for m, v in zip(means, parts, strict=True)]
        if step % 50 == 49:
            pace = (time.time() - began) / (step + 1 - first)
            shown = "loss {:.4f} looks {:.3f} number {:.3f}".format(*means)
            print(f"language {step + 1}/{plan.steps} {shown} {pace:.2f} s", flush=True)
        if (step + 1) % plan.report_every == 0 or step + 1 == plan.steps:
            for form, batches in tests.items():
                exact = exact_answers(model, batches, image_token)
                print(f"  {form}: {report(exact)}", flush=True)
            save_state(checkpoint, modules, groups, step + 1)


_TESTS = {"single": 5, "several": 4, "last": 2, "two": 3, "text": 1, "tiny": 8, "video": 5}


def _batches(source: Source, first: int, plan: Plan) -> Iterator[tuple[int, TextBatch]]:
    """Batches made one ahead in a thread."""

    def make(step: int) -> TextBatch:
        return source.drawn(EARLY if step < plan.early else LATE)

    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(make, first)
        for step in range(first, plan.steps):
            batch = ahead.result()
            ahead = executor.submit(make, step + 1)
            yield step, batch
