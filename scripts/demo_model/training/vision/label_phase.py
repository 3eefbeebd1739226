"""The vision phase: train the lower layers on labels of every patch, token and place.

Such labels carry far more information than text, so the tower learns in minutes what would take
hours through the language model.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.internvl.modeling_internvl import InternVLModel

from scripts.demo_model.network.forward import lower_part, patch_states, to_pixel_values
from scripts.demo_model.network.precision import mixed_precision
from scripts.demo_model.training.optimisation import Schedule, TrainingRun, prefetch
from scripts.demo_model.training.tiles.batches import TileBatch, make_batch
from scripts.demo_model.training.tiles.pool import Tile, read_pool
from scripts.demo_model.training.tiles.windows import LARGE, SMALL, Windows
from scripts.demo_model.training.vision.losses import patch_losses, position_loss, token_losses
from scripts.demo_model.training.vision.read_outs import SHAPE_CLASSES, ReadOuts, split_kind

# Batches of whole tiles alternate with windows of tiles, which show many more items.
_TILE_BATCH, _LARGE_BATCH, _SMALL_BATCH = 10, 40, 128
# The number of tiles from which windows are cut.
_WINDOW_TILES = 6000
# Until this fraction of the steps, most batches are windows, and whole tiles are easy ones.
_WINDOWS_UNTIL = 0.6
_EVALUATED_TILES, _EVALUATION_BATCH = 400, 64


def train_vision(
    model: InternVLModel, pool_folder: Path, checkpoint: Path, schedule: Schedule
) -> None:
    """Train the lower layers and their read-outs; continue from the checkpoint if it exists."""
    read_outs = ReadOuts()
    modules = {"trained": lower_part(model), "heads": read_outs}
    run = TrainingRun("vision", checkpoint, modules, schedule)
    held_out = [tile for tile in read_pool(pool_folder, "held-out") if tile.easy]
    source = _BatchSource(read_pool(pool_folder, "train"), run.first_step, schedule.steps)
    for step, (batch, origins) in prefetch(source.batch, run.steps):
        run.update(step, _losses(model, read_outs, batch, origins))
        if run.is_report_due(step):
            print(f"vision {step + 1}: {evaluate(model, read_outs, held_out)}")
            run.save(step)


def _losses(
    model: InternVLModel, read_outs: ReadOuts, batch: TileBatch, origins: Tensor | None
) -> dict[str, Tensor]:
    with mixed_precision():
        half, final, tokens = patch_states(model, to_pixel_values(batch.tiles), origins)
    return (
        token_losses(read_outs, tokens, batch)
        | patch_losses(read_outs, half, final, batch)
        | position_loss(read_outs, tokens, batch, origins)
    )


class _BatchSource:
    """Batches of whole tiles and of windows in turn."""

    def __init__(self, tiles: list[Tile], first_step: int, steps: int) -> None:
        self._rng = rng = random.Random(f"vision-{first_step}")
        self._tiles, self._steps = tiles, steps
        self._easy = [tile for tile in tiles if tile.easy]
        chosen = rng.sample(tiles, min(_WINDOW_TILES, len(tiles)))
        self._small = Windows(chosen, SMALL, rng)
        self._large = Windows(chosen[: _WINDOW_TILES // 4], LARGE, rng)
        windows = f"{len(self._small)} small and {len(self._large)} large windows"
        print(f"vision: {len(self._easy)} easy tiles, {windows}")

    def batch(self, step: int) -> tuple[TileBatch, Tensor | None]:
        """Return the batch of a step, and the origins of its windows or None for whole tiles."""
        rng, turn = self._rng, step % 8
        late = step / self._steps > _WINDOWS_UNTIL
        if turn == 0 or (late and turn % 2 == 0):
            tiles = self._easy if turn % 4 == 0 else self._tiles
            return make_batch(rng.sample(tiles, _TILE_BATCH), rng), None
        if turn == 4:
            return self._large.batch(_LARGE_BATCH, rng)
        return self._small.batch(_SMALL_BATCH, rng)


@torch.no_grad()
def evaluate(model: InternVLModel, read_outs: ReadOuts, tiles: list[Tile]) -> str:
    """Return the accuracy of places, items, shapes and tokens of detail tiles, for printing."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for start in range(0, min(_EVALUATED_TILES, len(tiles)), _EVALUATION_BATCH):
        batch = make_batch(tiles[start : start + _EVALUATION_BATCH], None)
        with mixed_precision():
            _, _, tokens = patch_states(model, to_pixel_values(batch.tiles))
        for name, found in _compare(read_outs, tokens.float(), batch).items():
            right[name] += int(found.sum())
            total[name] += found.numel()
    return " ".join(f"{name} {right[name] / max(1, total[name]):.4f}" for name in total)


def _compare(read_outs: ReadOuts, tokens: Tensor, batch: TileBatch) -> dict[str, Tensor]:
    """Return booleans, whether each scene, item, shape and token of a detail tile is right."""
    whole = batch.places[:, 0] >= 0
    shape, colour = split_kind(batch.places[whole])
    logits = read_outs.places(tokens)[whole]
    same_shape = logits[..., :SHAPE_CLASSES].argmax(-1) == shape
    same = same_shape & (logits[..., SHAPE_CLASSES:].argmax(-1) == colour)
    present = shape > 0
    detail = (batch.weight.flatten(1) > 0.4) & (batch.kind.flatten(1) > 0) & ~whole[:, None]
    token_shape, token_colour = split_kind(batch.kind.flatten(1)[detail])
    token_logits = read_outs.token(tokens)[detail]
    right_shape = token_logits[:, 2:6].argmax(-1) + 1 == token_shape
    right_colour = token_logits[:, 7:15].argmax(-1) + 1 == token_colour
    return {
        "scenes": same.all(-1),
        "items": same[present],
        "shapes": same_shape[present],
        "detail tokens": right_shape & right_colour,
    }
