"""InternViT and its projector: from normalised tiles to embeddings of the text model.

Equations: transformers 5.23, `models/internvl/modeling_internvl.py`, which are the authors' for
`ps_version` v2; parity in tests/model/test_parity.py.
"""

from collections.abc import Generator

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own convention)
from torch import Tensor, nn

from internvl_server.checkpoint.config import CheckpointConfig, VisionConfig
from internvl_server.engine.cpu.model.support import num_encoded_layers

__all__ = ["VisionEncoder"]

_NORMS = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}


class VisionLayer(nn.Module):
    """One pre-norm transformer block with learned residual scales, over one tile."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.layer_norm_eps
        norm = _NORMS[config.norm_type]
        self.num_heads = config.num_attention_heads
        self.norm1 = norm(hidden, eps=eps)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=config.has_qkv_bias)
        self.q_norm = nn.RMSNorm(hidden, eps=eps) if config.has_qk_norm else None
        self.k_norm = nn.RMSNorm(hidden, eps=eps) if config.has_qk_norm else None
        self.proj = nn.Linear(hidden, hidden)
        self.scale1 = nn.Parameter(torch.empty(hidden))
        self.norm2 = norm(hidden, eps=eps)
        self.fc1 = nn.Linear(hidden, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, hidden)
        self.scale2 = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to one tile, (num_patches + 1, hidden_size)."""
        x = x + self._attend(self.norm1(x)) * self.scale1
        mlp: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mlp * self.scale2

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        heads = (1, len(x), self.num_heads, -1)
        mixed = F.scaled_dot_product_attention(
            query.reshape(heads).transpose(1, 2),
            key.reshape(heads).transpose(1, 2),
            value.reshape(heads).transpose(1, 2),
        )
        output: Tensor = self.proj(mixed.transpose(1, 2).reshape(len(x), -1))
        return output


class Projector(nn.Module):
    """Projects four neighbouring patches to one embedding of the text model."""

    def __init__(self, vision_size: int, text_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * vision_size)
        self.fc1 = nn.Linear(4 * vision_size, text_size)
        self.fc2 = nn.Linear(text_size, text_size)

    def forward(self, patches: Tensor) -> Tensor:
        """Project (num_patches, vision_size) of one tile to (num_patches / 4, text_size)."""
        output: Tensor = self.fc2(F.gelu(self.fc1(self.norm(_merge_neighbours(patches)))))
        return output


class VisionEncoder(nn.Module):
    """Encodes tiles one by one and layer by layer, so that the work can be spread over many steps."""

    def __init__(self, config: CheckpointConfig) -> None:
        super().__init__()
        vision = config.vision
        self.cls = nn.Parameter(torch.empty(1, 1, vision.hidden_size))
        self.position = nn.Parameter(torch.empty(1, vision.num_patches + 1, vision.hidden_size))
        self.patch = nn.Conv2d(3, vision.hidden_size, vision.patch_size, stride=vision.patch_size)
        self.layers = nn.ModuleList(VisionLayer(vision) for _ in range(num_encoded_layers(config)))
        self.projector = Projector(vision.hidden_size, config.text.hidden_size)

    def encode(self, pixel_values: Tensor) -> Generator[None, None, Tensor]:
        """Encode tiles, pausing after each layer of each tile.

        Args:
            pixel_values: float32 or bfloat16, (num_tiles, 3, image_size, image_size), normalised.

        Returns:
            (num_tiles * num_patches / 4, text hidden_size), tiles in order.
        """
        embeddings = []
        for tile in pixel_values:
            patches = self.patch(tile[None].to(self.cls.dtype)).flatten(2).transpose(1, 2)
            x = (torch.cat((self.cls, patches), dim=1) + self.position)[0]
            for layer in self.layers:
                x = layer(x)
                yield
            embeddings.append(self.projector(x[1:]))
        return torch.cat(embeddings)


def _merge_neighbours(patches: Tensor) -> Tensor:
    """Concatenate each 2x2 square of patches ("pixel shuffle" v2 with a ratio of one half)."""
    half = int(len(patches) ** 0.5) // 2
    squares = patches.view(half, 2, half, 2, -1).permute(0, 2, 1, 3, 4)
    return squares.reshape(half * half, -1)
