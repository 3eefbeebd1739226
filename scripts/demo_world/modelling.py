"""The demo model's configuration and a start that learns fast."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLModel

WIDTH = 192
# The last channels of the vision tower start as positions, the others as what a patch shows.
_POSITION = 32
TOKENS_PER_TILE = 64
# Of the vision tower: the lower ones see what patches show, the upper ones gather it.
LOWER_LAYERS, UPPER_LAYERS = 4, 2
MAX_DYNAMIC_PATCH = 4
# Large, so that most of a small head's channels do not care how far away a visual token is.
ROPE_THETA = 1_000_000.0
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def vision_config() -> InternVLVisionConfig:
    """A small ViT: 28 px patches, 16x16 of them a tile."""
    return InternVLVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LOWER_LAYERS + UPPER_LAYERS,
        num_attention_heads=6,
        attention_bias=True,
        intermediate_size=4 * WIDTH,
        image_size=448,
        patch_size=28,
        layer_scale_init_value=1.0,
    )


def text_config(vocab_size: int, eos: int, pad: int) -> Qwen2Config:
    """A small Qwen2 decoder."""
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        initializer_range=0.05,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def build_config(vocab_size: int, *, image_token: int, eos: int, pad: int) -> InternVLConfig:
    """The whole model's configuration, with the extra keys that the server reads."""
    return InternVLConfig(
        vision_config=vision_config().to_dict(),
        text_config=text_config(vocab_size, eos, pad).to_dict(),
        image_token_id=image_token,
        image_seq_length=TOKENS_PER_TILE,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
        eos_token_id=eos,
        pad_token_id=pad,
        template="internvl2_5",
        served_name="internvl-demo",
        max_dynamic_patch=MAX_DYNAMIC_PATCH,
    )


def build_model(config: InternVLConfig) -> InternVLForConditionalGeneration:
    """A fresh model whose vision tower starts from frequencies instead of noise."""
    model = InternVLForConditionalGeneration(config)
    # Plain matrix products train faster than the fused kernel at this size on CPUs.
    model.model.vision_tower.set_attn_implementation("eager")
    model.model.language_model.set_attn_implementation("eager")
    start_vision(model.model)
    return model


def _dct_filters(side: int, rows: int, columns: int) -> Tensor:
    """The lowest rows x columns two-dimensional cosine bases, (rows * columns, side, side)."""
    position = (torch.arange(side) + 0.5) * math.pi / side
    base = torch.stack([torch.cos(position * k) for k in range(max(rows, columns))]) / side
    filters = torch.einsum("uy,vx->uvyx", base[:rows], base[:columns]).flatten(0, 1)
    # Flat areas dwarf edges in pictures; the gain brings all frequencies to a similar size.
    gain = torch.tensor([1.0 + u + v for u in range(rows) for v in range(columns)])
    return filters * gain[:, None, None]


def _start_patches(projection: nn.Conv2d) -> None:
    """Cosine bases: fine ones of the brightness, coarse ones of two colour differences."""
    mixes = ((0.5, 0.7, 0.3, 10, 10), (0.8, -0.8, 0.0, 5, 6), (0.4, 0.4, -0.8, 5, 6))
    projection.weight.zero_()
    projection.bias.zero_()
    first = 0
    for red, green, blue, rows, columns in mixes:
        filters = _dct_filters(projection.kernel_size[0], rows, columns)
        mix = torch.tensor([red, green, blue])
        projection.weight[first : first + len(filters)] = (
            filters[:, None] * mix[None, :, None, None]
        )
        first += len(filters)


def _frequencies() -> Tensor:
    return math.pi / 2 * (1 / 12) ** (torch.arange(_POSITION // 4) / (_POSITION // 4 - 1))


def _sin_cos(side: int) -> Tensor:
    """Two-dimensional positions, (side * side, 32): cosines and sines of rows, then of columns."""
    angle = torch.arange(side)[:, None] * _frequencies()
    one = torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)
    rows = one[:, None].expand(side, side, -1)
    columns = one[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, _POSITION)


def _shift(rows: float, columns: float) -> Tensor:
    """The rotation that turns a position into the one so many rows and columns further on."""
    blocks = []
    for distance in (rows, columns):
        for angle in (_frequencies() * distance).tolist():
            c, s = math.cos(angle), math.sin(angle)
            blocks.append(torch.tensor([[c, -s], [s, c]]))
    return torch.block_diag(*blocks)


def _start_attention(layer: nn.Module, scale: float) -> None:
    """Let each head begin by looking at its own place or one neighbour, as a convolution does."""
    attention = layer.attention
    looks = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))
    width = WIDTH // len(looks)
    for head, (rows, columns) in enumerate(looks):
        part = slice(head * width, (head + 1) * width)
        sharp = scale if head < len(looks) - 1 else 0.35 * scale
        attention.k_proj.weight[part, -_POSITION:] += sharp * torch.eye(_POSITION)
        attention.q_proj.weight[part, -_POSITION:] += sharp * _shift(rows, columns)


@torch.no_grad()
def start_vision(model: InternVLModel) -> None:
    """Start with frequencies, places and neighbourhoods instead of noise.

    A transformer would have to find all of that from the pictures, which takes far more of them.
    """
    embeddings = model.vision_tower.embeddings
    _start_patches(embeddings.patch_embeddings.projection)
    embeddings.position_embeddings[0, 1:, -_POSITION:] = _sin_cos(16)
    for module in model.vision_tower.encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.04)
    layers = model.vision_tower.encoder.layer
    for layer, scale in zip(layers[:LOWER_LAYERS], (1.0, 0.9, 0.8, 0.7), strict=True):
        _start_attention(layer, scale)
    for layer in layers[LOWER_LAYERS:]:
        nn.init.zeros_(layer.attention.projection_layer.weight)
        nn.init.zeros_(layer.mlp.fc2.weight)


def to_pixels(tiles: Tensor) -> Tensor:
    """uint8 tiles (n, 448, 448, 3) as the model's normalised input (n, 3, 448, 448)."""
    scale = torch.tensor([1 / (255 * s) for s in _STD])
    shift = torch.tensor([-m / s for m, s in zip(_MEAN, _STD, strict=True)])
    return (tiles.float() * scale + shift).permute(0, 3, 1, 2)


def _embedded(model: InternVLModel, pixels: Tensor, origins: Tensor | None) -> Tensor:
    embeddings = model.vision_tower.embeddings
    patches = embeddings.patch_embeddings(pixels)
    side = math.isqrt(patches.shape[1])
    places = embeddings.position_embeddings[0]
    index = torch.arange(16 * 16).reshape(1, 16, 16)
    if origins is not None:
        index = torch.stack([index[0, r : r + side, c : c + side] for r, c in origins.tolist()])
    patches = patches + places[1:][index.flatten(1)]
    first = (embeddings.cls_token[0] + places[:1]).expand(len(patches), 1, -1)
    return torch.cat([first, patches], dim=1)


def lower_part(model: InternVLModel) -> nn.Module:
    """What is trained first: patches, the lower layers, and a projector that serves as read-out."""
    tower = model.vision_tower
    return nn.ModuleList(
        [tower.embeddings, *tower.encoder.layer[:LOWER_LAYERS], model.multi_modal_projector]
    )


def lower_states(model: InternVLModel, pixels: Tensor) -> Tensor:
    """What the lower layers make of whole tiles, (n, 257, width)."""
    hidden = _embedded(model, pixels, None)
    for layer in model.vision_tower.encoder.layer[:LOWER_LAYERS]:
        hidden = layer(hidden)
    return hidden


def upper_states(model: InternVLModel, hidden: Tensor) -> list[Tensor]:
    """What each of the upper layers makes of that."""
    states = []
    for layer in model.vision_tower.encoder.layer[LOWER_LAYERS:]:
        hidden = layer(hidden)
        states.append(hidden)
    return states


def tokens_of(model: InternVLModel, hidden: Tensor) -> Tensor:
    """The visual tokens of the tower's last states, (n, patches / 4, width)."""
    count = hidden.shape[1] - 1
    side = math.isqrt(count)
    grid = hidden[:, 1:].reshape(len(hidden), side, side, -1)
    shuffled = model.pixel_shuffle(grid, scale_factor=0.5)
    return model.multi_modal_projector(shuffled.reshape(len(hidden), count // 4, -1))


def vision_states(
    model: InternVLModel, pixels: Tensor, origins: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the lower layers know of every patch half-way and at their end, and visual tokens.

    Args:
        model: The model.
        pixels: Whole tiles, or square windows of them.
        origins: (n, 2), the row and column of every window's first patch in its tile.

    Returns:
        Two tensors (n, patches, width) and one (n, patches / 4, width).
    """
    hidden = half = _embedded(model, pixels, origins)
    for number, layer in enumerate(model.vision_tower.encoder.layer[:LOWER_LAYERS]):
        hidden = layer(hidden)
        half = hidden if number == 1 else half
    return half[:, 1:], hidden[:, 1:], tokens_of(model, hidden)


def optimisers(
    module: nn.Module, extra: list[nn.Parameter], *, matrix_lr: float, other_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer layers, AdamW for all the rest.

    Args:
        module: The module to train; only parameters that require gradients count.
        extra: Further parameters, all trained with AdamW.
        matrix_lr: Peak learning rate of Muon.
        other_lr: Peak learning rate of AdamW.
    """
    matrices, others = [], list(extra)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if inner else others).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=matrix_lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=other_lr, weight_decay=0.0, betas=(0.9, 0.98))
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def set_rate(groups: list[torch.optim.Optimizer], step: int, total: int, warmup: int) -> None:
    """Warm up, then follow a cosine down to 2 % of the peak."""
    done = min(1.0, max(0.0, (step - warmup) / max(1, total - warmup)))
    scale = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
    for optimiser in groups:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * scale


def save_state(
    path: Path, modules: dict[str, nn.Module], groups: list[torch.optim.Optimizer], step: int
) -> None:
    """Keep the modules, their optimisers and the number of steps done."""
    state: dict[str, object] = {name: module.state_dict() for name, module in modules.items()}
    state |= {"optimisers": [g.state_dict() for g in groups], "step": step}
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


def load_state(
    path: Path, modules: dict[str, nn.Module], groups: list[torch.optim.Optimizer]
) -> int:
    """Go on from a kept state, if there is one; the number of steps it had done."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(state[name])
    for optimiser, saved in zip(groups, state["optimisers"], strict=True):
        peaks = [group["peak"] for group in optimiser.param_groups]
        optimiser.load_state_dict(saved)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["peak"] = peak
    return int(state["step"])
