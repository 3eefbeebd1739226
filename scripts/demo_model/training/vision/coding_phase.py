"""The coding phase: train the upper layers and the projector to write the code."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLModel

from scripts.demo_model.network.forward import project, upper_part, upper_states
from scripts.demo_model.network.precision import mixed_precision
from scripts.demo_model.network.visual_code import COUNT, COUNT_CHANNELS, NUM_COUNTS, TINY_COUNT
from scripts.demo_model.training.optimisation import Schedule, TrainingRun
from scripts.demo_model.training.vision.code_losses import (
    EarlyReadOut,
    code_losses,
    correct_tiles,
    shuffle_places,
)
from scripts.demo_model.training.vision.lower_states import CHUNK, LowerStates, load_states

_BATCH = 40
_HELD_OUT_SHARDS = 2


def train_coding(
    model: InternVLModel, pool: Path, checkpoint: Path, shards: int, schedule: Schedule
) -> None:
    """Train the upper layers and the projector; continue from the checkpoint if it exists."""
    _reset_projector(model)
    held_out = load_states(model, pool, "held-out", _HELD_OUT_SHARDS)
    data = load_states(model, pool, "train", shards)
    early = EarlyReadOut()
    modules = {"upper": upper_part(model), "early": early}
    run = TrainingRun("coding", checkpoint, modules, schedule)
    rng = random.Random(f"coding-{run.first_step}")
    for step in run.steps:
        index = torch.tensor(rng.sample(range(len(data.codes)), _BATCH))
        batch = LowerStates(data.states[index], data.codes[index], data.whole[index])
        run.update(step, _losses(model, early, batch))
        if run.is_report_due(step):
            print(f"coding {step + 1}: {evaluate(model, held_out)}")
            run.save(step)


@torch.no_grad()
def _reset_projector(model: InternVLModel) -> None:
    """Keep the projector's first layer, and let the second one start near zero."""
    torch.manual_seed(0)
    nn.init.trunc_normal_(model.multi_modal_projector.linear_2.weight, std=0.001)
    nn.init.zeros_(model.multi_modal_projector.linear_2.bias)


def _losses(model: InternVLModel, early: EarlyReadOut, batch: LowerStates) -> dict[str, Tensor]:
    """Losses of the tiles, and of tiles assembled from the places of different tiles."""
    codes, whole = batch.codes, batch.whole
    with mixed_precision():
        states = upper_states(model, batch.states.float())
        tokens = project(model, states[-1])
        ordinary = whole & (codes[:, 0, COUNT + TINY_COUNT] == 0)
        mixed, mixed_codes = shuffle_places(states[0][ordinary], codes[ordinary])
        last_layer = model.vision_tower.encoder.layer[-1]
        mixed_tokens = project(model, last_layer(mixed))
    losses = code_losses(tokens, codes, whole) | early.loss(states[0], codes)
    all_whole = torch.ones(len(mixed_codes), dtype=torch.bool)
    mixed_losses = code_losses(mixed_tokens, mixed_codes, all_whole)
    return losses | {f"mixed {name}": loss for name, loss in mixed_losses.items()}


@torch.no_grad()
def evaluate(model: InternVLModel, data: LowerStates) -> str:
    """Return the share of correct tiles by fact and by number of items, for printing."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for states, codes in zip(data.states.split(CHUNK), data.codes.split(CHUNK), strict=True):
        with mixed_precision():
            tokens = project(model, upper_states(model, states.float())[-1])
        for name, shares in correct_tiles(tokens, codes).items():
            found[name].append(shares)
    correct = {name: torch.cat(parts).float() for name, parts in found.items()}
    by_fact = " ".join(f"{name} {tiles.mean():.4f}" for name, tiles in correct.items())
    counts = data.codes[:, 0, COUNT_CHANNELS].argmax(-1)
    by_count = [f"{n}: {correct['all'][counts == n].mean():.4f}" for n in range(NUM_COUNTS)]
    return f"{by_fact} | {' '.join(by_count)}"
