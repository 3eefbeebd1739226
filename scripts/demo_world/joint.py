"""Phase C: train the whole model together, gently, from pixels to words.

Whole pictures go through the vision tower in every other step; the kept visual tokens of the
language phase are used in between, so that what the model learnt about other forms of
conversation stays.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from . import conversations as c
from .batching import TextBatch, collate
from .conversations import Writer
from .drawing import Box
from .features import Library, Picture, scene_of
from .language import LATE, Source, answer_loss, hidden_states
from .modelling import image_features, optimisers, set_rate, to_pixels
from .pool import Pool, PoolTile, make_batch
from .vision import Heads, losses

PICTURES = 12
QUESTIONS = 7


class Live:
    """Draws pictures from the pool and sends them through the vision tower."""

    def __init__(
        self,
        model: InternVLForConditionalGeneration,
        heads: Heads,
        tiles: list[PoolTile],
        tokenizer: Tokenizer,
        seed: str,
    ) -> None:
        self._model, self._heads, self._tiles = model, heads, tiles
        self._writer, self._rng = Writer(tokenizer), random.Random(seed)

    def batch(self, feature_scale: float) -> tuple[TextBatch, Tensor]:
        """Questions about fresh pictures, and the loss of the vision phase's labels."""
        rng = self._rng
        pixels = make_batch(rng.sample(self._tiles, PICTURES), rng)
        tokens = image_features(self._model.model, to_pixels(pixels.tiles))
        labels = losses(self._heads, tokens / feature_scale, pixels)
        pictures = [
            Picture(scene_of(places.numpy()), visual[None])
            for places, visual in zip(pixels.places, tokens, strict=True)
        ]
        sequences = [c.one_picture(self._writer, rng, p, QUESTIONS) for p in pictures]
        return collate(sequences), sum(labels.values(), torch.zeros(()))


def train_jointly(
    model: InternVLForConditionalGeneration,
    tokenizer: Tokenizer,
    library: Library,
    work: Path,
    *,
    steps: int,
    feature_scale: float,
) -> None:
    """Train everything at a low rate and keep the result in ``joint.pt``."""
    heads = Heads()
    heads.load_state_dict(torch.load(work / "vision.pt", weights_only=True)["heads"])
    tiles = Pool(work / "pool", "train")
    tiles.refresh()
    whole = [t for t in tiles.tiles if t.box == Box() and not t.scene.tiny and t.easy]
    live = Live(model, heads, whole, tokenizer, "joint")
    kept = Source(library, tokenizer, "joint")
    groups = optimisers(model, list(heads.parameters()), matrix_lr=8e-4, other_lr=4e-4)
    began, mean = time.time(), 0.0
    for step in range(steps):
        set_rate(groups, step, steps, 40)
        fresh = step % 2 == 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batch, labels = (
                live.batch(feature_scale) if fresh else (kept.drawn(LATE), torch.zeros(()))
            )
            hidden, _ = hidden_states(model, batch, model.config.image_token_id)
            loss = answer_loss(model, hidden, batch)
        (loss + 0.05 * labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in groups:
            optimiser.step()
            optimiser.zero_grad()
        if fresh:
            mean = 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 49:
            pace = (time.time() - began) / (step + 1)
            print(f"joint {step + 1}/{steps} loss {mean:.4f} {pace:.2f} s", flush=True)
            torch.save(model.state_dict(), work / "joint.pt")
