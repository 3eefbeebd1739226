"""The Qwen2 or Qwen3 text model over a flat batch: the new tokens of all sequences, concatenated.

Linear layers process the flat batch. Attention processes each sequence with its own keys and values, so that
there is no padding. Equations: transformers 5.23, `models/qwen2/modeling_qwen2.py` and
`models/qwen3/modeling_qwen3.py`; parity in tests/model/test_parity.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own convention)
from torch import Tensor, nn

from internvl_server.checkpoint.config import TextConfig
from internvl_server.engine.cpu.model.kv_cache import KvCache

__all__ = ["Decoder", "Segment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """The new tokens of one sequence in a flat batch: positions `start` to `start + num_tokens`."""

    kv_cache: KvCache
    start: int
    num_tokens: int


class DecoderLayer(nn.Module):
    """Attention and gated MLP, each after an RMS norm and with a residual."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        hidden, head_dim, eps = config.hidden_size, config.head_dim, config.rms_norm_eps
        query_size = config.num_attention_heads * head_dim
        kv_size = config.num_key_value_heads * head_dim
        self.index = index
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.attn_norm = nn.RMSNorm(hidden, eps=eps)
        self.qkv = nn.Linear(hidden, query_size + 2 * kv_size, bias=config.has_qkv_bias)
        self.q_norm = nn.RMSNorm(head_dim, eps=eps) if config.has_qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim, eps=eps) if config.has_qk_norm else None
        self.o = nn.Linear(query_size, hidden, bias=False)
        self.mlp_norm = nn.RMSNorm(hidden, eps=eps)
        self.gate_up = nn.Linear(hidden, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, hidden, bias=False)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], segments: Sequence[Segment]
    ) -> Tensor:
        """Apply the layer.

        Args:
            x: (num_tokens, hidden_size), the tokens of all segments.
            rope: Cosines and sines, each (num_tokens, 1, head_dim / 2).
            segments: The sequences that the tokens belong to.

        Returns:
            Like `x`.
        """
        x = x + self.o(self._attend(self.qkv(self.attn_norm(x)), rope, segments))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        mlp: Tensor = self.down(F.silu(gate) * up)
        return x + mlp

    def _attend(
        self, qkv: Tensor, rope: tuple[Tensor, Tensor], segments: Sequence[Segment]
    ) -> Tensor:
        num_tokens, num_rotated = len(qkv), self.num_heads + self.num_kv_heads
        heads = qkv.view(num_tokens, num_rotated + self.num_kv_heads, -1)
        rotated = _rotate(self._normalised(heads[:, :num_rotated]), *rope)
        query = rotated[:, : self.num_heads]
        keys_values = torch.cat((rotated[:, self.num_heads :], heads[:, num_rotated:]), dim=1)
        keys_values = keys_values.view(num_tokens, 2, self.num_kv_heads, -1).permute(1, 2, 0, 3)
        outputs = []
        offset = 0
        for segment in segments:
            end = offset + segment.num_tokens
            keys, values = segment.kv_cache.extend(
                self.index, segment.start, keys_values[:, :, offset:end]
            )
            outputs.append(_causal_attention(query[offset:end], keys, values))
            offset = end
        return torch.cat(outputs)

    def _normalised(self, heads: Tensor) -> Tensor:
        """Apply Qwen3's norms to each query and key head of (num_tokens, num_heads, head_dim)."""
        if self.q_norm is None or self.k_norm is None:
            return heads
        query, key = heads[:, : self.num_heads], heads[:, self.num_heads :]
        return torch.cat((self.q_norm(query), self.k_norm(key)), dim=1)


class Decoder(nn.Module):
    """From token embeddings to logits."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        # Not `nn.Embedding(…)`, which draws random weights and for that imports PyTorch's compiler.
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed = nn.Embedding.from_pretrained(table)  # type: ignore[no-untyped-call]
        self.layers = nn.ModuleList(
            DecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._config = config
        self._rope = (torch.empty(0), torch.empty(0))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights, keys and values."""
        return self.norm.weight.dtype

    def prepare(self, max_model_len: int) -> None:
        """Compute the rope tables for every position, in the dtype of the weights, as the reference does."""
        half = torch.arange(0, self._config.head_dim, 2, dtype=torch.float32)
        inverse = 1.0 / self._config.rope_theta ** (half / self._config.head_dim)
        angles = torch.outer(torch.arange(max_model_len, dtype=torch.float32), inverse)
        self._rope = (angles.cos().to(self.dtype)[:, None], angles.sin().to(self.dtype)[:, None])

    def forward(self, x: Tensor, segments: Sequence[Segment], rows: Tensor) -> Tensor:
        """Compute the new tokens of all segments and extend their caches.

        Args:
            x: Embeddings of the segments' tokens, (num_tokens, hidden_size).
            segments: The sequences that the tokens belong to, in order.
            rows: Indices into `x` of the tokens to predict successors for, int64.

        Returns:
            Logits, float32, (len(rows), vocab_size).
        """
        positions = torch.cat(
            [torch.arange(s.start, s.start + s.num_tokens, dtype=torch.int64) for s in segments]
        )
        rope = self._rope[0][positions], self._rope[1][positions]
        for layer in self.layers:
            x = layer(x, rope, segments)
        logits: Tensor = self.head(self.norm(x[rows]))
        return logits.float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (num_tokens, num_heads, head_dim): the two halves of a head form pairs."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _causal_attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of a sequence's newest tokens to all of its tokens.

    Heads that share keys are grouped as (num_kv_heads, num_shared, ...), which expands the keys without
    copying them.

    Args:
        query: (num_new, num_heads, head_dim), the last `num_new` positions.
        keys: (num_kv_heads, num_tokens, head_dim).
        values: Like `keys`.

    Returns:
        (num_new, num_heads * head_dim).
    """
    num_new, num_heads, head_dim = query.shape
    num_kv_heads, num_tokens, _ = keys.shape
    if num_new == 1:
        # One token attends to everything: heads that share keys become rows of one unmasked attention.
        grouped = query.view(1, num_kv_heads, num_heads // num_kv_heads, head_dim)
        return F.scaled_dot_product_attention(grouped, keys[None], values[None]).reshape(1, -1)
    shape = (num_kv_heads, num_heads // num_kv_heads, num_tokens, head_dim)
    mask = torch.ones(num_new, num_tokens, dtype=torch.bool).tril(num_tokens - num_new)
    output = F.scaled_dot_product_attention(
        query.view(num_new, *shape[:2], head_dim).permute(1, 2, 0, 3),
        keys[:, None].expand(shape),
        values[:, None].expand(shape),
        attn_mask=mask,
    )
    return output.permute(2, 0, 1, 3).reshape(num_new, -1)
