"""The vision tower's forward pass in two parts, so that they can be trained separately."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLModel

from scripts.demo_model.network.architecture import LOWER_LAYERS

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_PATCHES = 16


def to_pixel_values(tiles: Tensor) -> Tensor:
    """Normalise uint8 tiles (n, 448, 448, 3) to the model's input (n, 3, 448, 448)."""
    scale = torch.tensor([1 / (255 * std) for std in _STD])
    shift = torch.tensor([-mean / std for mean, std in zip(_MEAN, _STD, strict=True)])
    return (tiles.float() * scale + shift).permute(0, 3, 1, 2)


def lower_part(model: InternVLModel) -> nn.Module:
    """Return what the vision phase trains: embeddings, lower layers, and the projector.

    The projector only serves as a read-out in that phase.
    """
    tower = model.vision_tower
    return nn.ModuleList(
        [tower.embeddings, *tower.encoder.layer[:LOWER_LAYERS], model.multi_modal_projector]
    )


def upper_part(model: InternVLModel) -> nn.Module:
    """Return what the coding phase trains: the upper layers and the projector."""
    return nn.ModuleList(
        [*model.vision_tower.encoder.layer[LOWER_LAYERS:], model.multi_modal_projector]
    )


def lower_states(model: InternVLModel, pixel_values: Tensor) -> Tensor:
    """Return the lower layers' output for whole tiles, (n, 257, width)."""
    hidden = _embed(model, pixel_values, None)
    for layer in model.vision_tower.encoder.layer[:LOWER_LAYERS]:
        hidden = layer(hidden)
    return hidden


def upper_states(model: InternVLModel, hidden: Tensor) -> list[Tensor]:
    """Return the output of each upper layer for the lower layers' output."""
    states = []
    for layer in model.vision_tower.encoder.layer[LOWER_LAYERS:]:
        hidden = layer(hidden)
        states.append(hidden)
    return states


def project(model: InternVLModel, hidden: Tensor) -> Tensor:
    """Apply pixel shuffle and the projector to (n, 1 + patches, width).

    Returns:
        The visual tokens, (n, patches / 4, width).
    """
    count = hidden.shape[1] - 1
    side = math.isqrt(count)
    grid = hidden[:, 1:].reshape(len(hidden), side, side, -1)
    shuffled = model.pixel_shuffle(grid, scale_factor=0.5)
    return model.multi_modal_projector(shuffled.reshape(len(hidden), count // 4, -1))


def patch_states(
    model: InternVLModel, pixel_values: Tensor, origins: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lower layers' states of every patch, and their projection.

    Args:
        model: The model.
        pixel_values: Whole tiles, or square windows of tiles.
        origins: (n, 2), row and column of each window's first patch within its tile.

    Returns:
        The states after the second and after the last lower layer, (n, patches, width) each, and
        the projected tokens, (n, patches / 4, width).
    """
    hidden = half = _embed(model, pixel_values, origins)
    for number, layer in enumerate(model.vision_tower.encoder.layer[:LOWER_LAYERS]):
        hidden = layer(hidden)
        half = hidden if number == 1 else half
    return half[:, 1:], hidden[:, 1:], project(model, hidden)


def _embed(model: InternVLModel, pixel_values: Tensor, origins: Tensor | None) -> Tensor:
    embeddings = model.vision_tower.embeddings
    patches = embeddings.patch_embeddings(pixel_values)
    side = math.isqrt(patches.shape[1])
    positions = embeddings.position_embeddings[0]
    index = torch.arange(_PATCHES**2).reshape(1, _PATCHES, _PATCHES)
    if origins is not None:
        index = torch.stack([index[0, r : r + side, c : c + side] for r, c in origins.tolist()])
    patches = patches + positions[1:][index.flatten(1)]
    first = (embeddings.cls_token[0] + positions[:1]).expand(len(patches), 1, -1)
    return torch.cat([first, patches], dim=1)
