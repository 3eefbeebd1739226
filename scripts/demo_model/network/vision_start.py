"""Initial weights of the vision tower: cosine filters, positions and local attention.

A transformer that starts from noise needs many more images to find these by itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLModel

from scripts.demo_model.network.architecture import LOWER_LAYERS, WIDTH

# The number of channels, the last of the vision tower's width, that start as positions. The
# others start as the content of a patch.
_POSITION = 32
_PATCHES = 16
# Red, green, blue, and the number of vertical and horizontal frequencies: a fine basis for
# brightness and coarse ones for two colour differences.
_BASES = ((0.5, 0.7, 0.3, 10, 10), (0.8, -0.8, 0.0, 5, 6), (0.4, 0.4, -0.8, 5, 6))
# The patch, relative to its own, at which each head starts to look; the last is less focused.
_OFFSETS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))
_SHARPNESS = (1.0, 0.9, 0.8, 0.7)


@torch.no_grad()
def start_vision(model: InternVLModel) -> None:
    """Initialise the patch embedding, the positions and the attention of the vision tower."""
    embeddings = model.vision_tower.embeddings
    _start_patches(embeddings.patch_embeddings.projection)
    embeddings.position_embeddings[0, 1:, -_POSITION:] = _position_encoding(_PATCHES)
    for module in model.vision_tower.encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.04)
    layers = model.vision_tower.encoder.layer
    for layer, sharpness in zip(layers[:LOWER_LAYERS], _SHARPNESS, strict=True):
        _start_attention(layer.attention, sharpness)
    for layer in layers[LOWER_LAYERS:]:
        nn.init.zeros_(layer.attention.projection_layer.weight)
        nn.init.zeros_(layer.mlp.fc2.weight)


def _start_patches(projection: nn.Conv2d) -> None:
    projection.weight.zero_()
    projection.bias.zero_()
    first = 0
    for red, green, blue, rows, columns in _BASES:
        filters = _cosine_filters(projection.kernel_size[0], rows, columns)
        mix = torch.tensor([red, green, blue])
        projection.weight[first : first + len(filters)] = (
            filters[:, None] * mix[None, :, None, None]
        )
        first += len(filters)


def _cosine_filters(side: int, rows: int, columns: int) -> Tensor:
    """Return the lowest rows x columns basis images of a 2D DCT, (rows * columns, side, side)."""
    position = (torch.arange(side) + 0.5) * math.pi / side
    base = torch.stack([torch.cos(position * k) for k in range(max(rows, columns))]) / side
    filters = torch.einsum("uy,vx->uvyx", base[:rows], base[:columns]).flatten(0, 1)
    # Low frequencies dominate images; the gain brings all frequencies to a similar magnitude.
    gain = torch.tensor([1.0 + u + v for u in range(rows) for v in range(columns)])
    return filters * gain[:, None, None]


def _frequencies() -> Tensor:
    return math.pi / 2 * (1 / 12) ** (torch.arange(_POSITION // 4) / (_POSITION // 4 - 1))


def _position_encoding(side: int) -> Tensor:
    """Return 2D positions, (side * side, 32): cosines and sines of rows, then of columns."""
    angle = torch.arange(side)[:, None] * _frequencies()
    one = torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)
    rows = one[:, None].expand(side, side, -1)
    columns = one[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, _POSITION)


def _shift(rows: float, columns: float) -> Tensor:
    """Return the rotation that maps a position to the one at this offset, (32, 32)."""
    blocks = []
    for distance in (rows, columns):
        for angle in (_frequencies() * distance).tolist():
            c, s = math.cos(angle), math.sin(angle)
            blocks.append(torch.tensor([[c, -s], [s, c]]))
    return torch.block_diag(*blocks)


def _start_attention(attention: nn.Module, sharpness: float) -> None:
    """Let each head start by attending to its own patch or to one neighbour, as a convolution."""
    width = WIDTH // len(_OFFSETS)
    for head, (rows, columns) in enumerate(_OFFSETS):
        part = slice(head * width, (head + 1) * width)
        scale = sharpness if head < len(_OFFSETS) - 1 else 0.35 * sharpness
        attention.k_proj.weight[part, -_POSITION:] += scale * torch.eye(_POSITION)
        attention.q_proj.weight[part, -_POSITION:] += scale * _shift(rows, columns)
