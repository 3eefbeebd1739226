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
from .drawing import kind_index
from .features import Library
from .looks import item_tokens, look_loss
from .modelling import TOKENS_PER_TILE, WIDTH, optimisers, set_rate
from .source import EARLY, LATE, Source
from .vision import Heads, pair_loss

# After this many layers the end of an image should know what is where on it.
_SUMMARY_LAYER = 2


class Summary(nn.Module):
    """Reads the whole scene off an image's last token; only used while training.

    It gives the language model a dense goal (gather the picture at its end) long before the
    words get there by themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Linear(WIDTH, 9 * 14)

    def loss(self, hidden: Tensor, batch: TextBatch) -> Tensor:
        """Cross-entropy of what lies at every place, for ordinary pictures."""
        pictures = [p for s in batch.sequences for p in s.pictures]
        plain = [i for i, p in enumerate(pictures) if not p.scene.tiny]
        if not plain:
            return hidden.sum() * 0
        ends = batch.ends[plain]
        logits = self.places(hidden[ends[:, 0], ends[:, 1]].float()).reshape(-1, 14)
        truth = torch.zeros(len(plain), 9, dtype=torch.long)
        for row, index in enumerate(plain):
            for item in pictures[index].scene.items:
                truth[row, item.place] = kind_index(item)
        truth = truth.flatten()
        return pair_loss(logits, truth, 0.15 + 0.85 * (truth > 0))


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
        attention_mask=batch.mask.to(torch.bfloat16),
        position_ids=batch.position,
        output_hidden_states=True,
        use_cache=False,
    )
    return output.last_hidden_state, output.hidden_states


def look_targets(heads: Heads, batch: TextBatch, feature_scale: float) -> Tensor:
    """Layer, row, token and the token to look at of every look of a batch, (n, 4)."""
    pictures = [p for s in batch.sequences for p in s.pictures]
    if not pictures:
        return torch.zeros(0, 4, dtype=torch.long)
    fits = item_tokens(heads, torch.stack([p.features[-1] for p in pictures]), feature_scale)
    best, first, rows = fits.argmax(dim=1).tolist(), 0, []
    for row, sequence in enumerate(batch.sequences):
        ends = sequence.image_ends
        for token, look in sequence.looks:
            target = ends[-1]
            if look.picture >= 0:
                inner = best[first + look.picture][look.kind]
                target = ends[look.picture] - TOKENS_PER_TILE + inner
            rows.append((look.layer, row, token, target))
        first += len(sequence.pictures)
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 4)


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
    """How long to train.

    Attributes:
        steps: How many steps in all.
        feature_scale: What the visual tokens were multiplied with after the vision phase.
        report_every: Steps between two examinations and checkpoints.
    """

    steps: int
    feature_scale: float
    report_every: int = 250


def train_language(
    model: InternVLForConditionalGeneration,
    tokenizer: Tokenizer,
    libraries: tuple[Library, Library],
    checkpoint: Path,
    heads: Heads,
    plan: Plan,
) -> None:
    """Train the language model alone on kept visual tokens; go on from the checkpoint if any."""
    image_token = model.config.image_token_id
    summary = Summary()
    language = model.model.language_model
    groups = optimisers(language, list(summary.parameters()), matrix_lr=3e-3, other_lr=2e-3)
    first = _load(checkpoint, language, summary, groups)
    held_out = Source(libraries[1], tokenizer, "held-out")
    tests = {form: [held_out.batch(form) for _ in range(n)] for form, n in _TESTS.items()}
    source = Source(libraries[0], tokenizer, f"language-{first}")
    began, means = time.time(), [0.0, 0.0, 0.0]
    for step, batch in _batches(source, first, plan.steps):
        set_rate(groups, step, plan.steps, 100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, layers = hidden_states(model, batch, image_token)
            loss = answer_loss(model, hidden, batch)
            targets = look_targets(heads, batch, plan.feature_scale)
            looks = look_loss(model, layers, batch.mask, batch.position, targets)
        gathered = summary.loss(layers[_SUMMARY_LAYER], batch)
        (loss + 0.2 * gathered + 0.5 * looks).backward()
        nn.utils.clip_grad_norm_(language.parameters(), 1.0)
        for optimiser in groups:
            optimiser.step()
            optimiser.zero_grad()
        parts = (loss, gathered, looks)
        means = [0.98 * m + 0.02 * v.item() for m, v in zip(means, parts, strict=True)]
        if step % 50 == 49:
            pace = (time.time() - began) / (step + 1 - first)
            shown = "loss {:.4f} summary {:.3f} looks {:.3f}".format(*means)
            print(f"language {step + 1}/{plan.steps} {shown} {pace:.2f} s", flush=True)
        if (step + 1) % plan.report_every == 0 or step + 1 == plan.steps:
            for form, batches in tests.items():
                exact = exact_answers(model, batches, image_token)
                print(f"  {form}: {report(exact)}", flush=True)
            _save(checkpoint, language, summary, groups, step + 1)


_TESTS = {"single": 6, "multi": 5, "last": 2, "two": 4, "text": 1, "tiny": 6}


def _batches(source: Source, first: int, total: int) -> Iterator[tuple[int, TextBatch]]:
    """Batches made one ahead in a thread; the first third is mostly single tiles."""

    def make(step: int) -> TextBatch:
        return source.drawn(EARLY if step < total // 3 else LATE)

    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(make, first)
        for step in range(first, total):
            batch = ahead.result()
            ahead = executor.submit(make, step + 1)
            yield step, batch


def _save(path: Path, language: nn.Module, summary: Summary, groups: list, step: int) -> None:
    state = {
        "language": language.state_dict(),
        "summary": summary.state_dict(),
        "optimisers": [g.state_dict() for g in groups],
        "step": step,
    }
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


def _load(path: Path, language: nn.Module, summary: Summary, groups: list) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    language.load_state_dict(state["language"])
    summary.load_state_dict(state["summary"])
    for optimiser, saved in zip(groups, state["optimisers"], strict=True):
        peaks = [group["peak"] for group in optimiser.param_groups]
        optimiser.load_state_dict(saved)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["peak"] = peak
    return int(state["step"])
