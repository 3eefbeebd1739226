"""Phase B: teach the language model to talk about the visual tokens of many pictures."""

from __future__ import annotations

import random
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
from .batching import TextBatch, collate
from .conversations import Sequence, Writer
from .drawing import kind_index
from .features import Library, Picture
from .modelling import WIDTH, optimisers, set_rate
from .vision import pair_loss

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
) -> tuple[Tensor, Tensor]:
    """The language model's last and its summary layer's hidden states."""
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
    return output.last_hidden_state, output.hidden_states[_SUMMARY_LAYER]


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


@dataclass(frozen=True)
class Mixture:
    """How often each form of conversation is drawn."""

    single: float
    multi: float
    last: float
    two: float
    text: float
    tiny: float


EARLY = Mixture(single=0.70, multi=0.12, last=0.04, two=0.12, text=0.02, tiny=0.0)
LATE = Mixture(single=0.36, multi=0.28, last=0.09, two=0.16, text=0.03, tiny=0.08)


class Source:
    """Draws batches of conversations about the library's pictures."""

    def __init__(self, library: Library, tokenizer: Tokenizer, seed: str) -> None:
        self._library, self._writer = library, Writer(tokenizer)
        self._rng = random.Random(seed)

    def batch(self, form: str) -> TextBatch:
        """A batch of one form, sized to cost about the same as any other."""
        return collate(getattr(self, f"_{form}")())

    def drawn(self, mixture: Mixture) -> TextBatch:
        """A batch of a form drawn from the mixture."""
        weights = vars(mixture)
        return self.batch(self._rng.choices(list(weights), list(weights.values()))[0])

    def _single(self) -> list[Sequence]:
        pictures = self._rng.sample(self._library.single, 7)
        return [c.one_picture(self._writer, self._rng, p, 8) for p in pictures]

    def _any(self) -> Picture:
        library = self._library.multi if self._rng.random() < 0.35 else self._library.single
        picture = self._rng.choice(library)
        return picture if len(picture.features) < 7 else self._any()

    def _mixed_details(self, picture: Picture) -> Picture:
        """A whole picture behind another one's detail tiles: only the last tile may be trusted."""
        if picture.resolved or self._rng.random() < 0.5:
            return picture
        other = self._rng.choice(self._library.multi).features[:-1]
        return Picture(picture.scene, torch.cat([other, picture.features]))

    def _multi(self) -> list[Sequence]:
        rng = self._rng
        if rng.random() < 0.5:
            pictures = rng.sample(self._library.multi, 3)
        else:
            pictures = [self._mixed_details(p) for p in rng.sample(self._library.single, 4)]
        return [c.one_picture(self._writer, rng, p, 9) for p in pictures]

    def _last(self) -> list[Sequence]:
        return [c.picture_last(self._writer, self._rng, self._any()) for _ in range(5)]

    def _two(self) -> list[Sequence]:
        pairs = [(self._any(), self._related()) for _ in range(3)]
        return [c.two_pictures(self._writer, self._rng, pair, 9) for pair in pairs]

    def _related(self) -> Picture:
        return self._any()

    def _text(self) -> list[Sequence]:
        return [c.no_picture(self._writer, self._rng, 8) for _ in range(4)]

    def _tiny(self) -> list[Sequence]:
        """Few sequences, for they are long, and some of whole pictures that show too little."""
        rng = self._rng
        pictures = rng.sample(self._library.tiny, 2)
        blurred = [Picture(p.scene, p.features[-1:]) for p in rng.sample(self._library.tiny, 4)]
        near = [c.one_picture(self._writer, rng, p, 3) for p in pictures]
        return (
            near
            if rng.random() < 0.75
            else [c.one_picture(self._writer, rng, p, 3) for p in blurred]
        )


def report(found: dict[str, tuple[int, int]]) -> str:
    """Exact answers by kind in one line."""
    return " ".join(f"{kind} {ok / total:.3f}" for kind, (ok, total) in found.items())


def train_language(
    model: InternVLForConditionalGeneration,
    tokenizer: Tokenizer,
    libraries: tuple[Library, Library],
    checkpoint: Path,
    *,
    steps: int,
    report_every: int = 250,
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
    began, means = time.time(), [0.0, 0.0]
    for step, batch in _batches(source, first, steps):
        set_rate(groups, step, steps, 100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, middle = hidden_states(model, batch, image_token)
            loss = answer_loss(model, hidden, batch)
        gathered = summary.loss(middle, batch)
        (loss + 0.3 * gathered).backward()
        nn.utils.clip_grad_norm_(language.parameters(), 1.0)
        for optimiser in groups:
            optimiser.step()
            optimiser.zero_grad()
        means = [0.98 * m + 0.02 * v.item() for m, v in zip(means, (loss, gathered), strict=True)]
        if step % 50 == 49:
            pace = (time.time() - began) / (step + 1 - first)
            print(
                f"language {step + 1}/{steps} loss {means[0]:.4f} summary {means[1]:.3f} {pace:.2f} s",
                flush=True,
            )
        if (step + 1) % report_every == 0 or step + 1 == steps:
            for form, batches in tests.items():
                print(f"  {form}: {report(exact_answers(model, batches, image_token))}", flush=True)
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
