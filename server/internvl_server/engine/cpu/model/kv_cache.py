"""Keys and values of one sequence, allocated when it starts."""

from typing import Self

import torch
from torch import Tensor

from internvl_server.checkpoint.config import TextConfig

__all__ = ["KvCache", "kv_bytes_per_token"]


class KvCache:
    """Room for `max_tokens` tokens; the system commits the memory as it is written.

    Each layer's store is (2, num_kv_heads, max_tokens, head_dim): keys, then values.
    """

    def __init__(self, config: TextConfig, max_tokens: int, dtype: torch.dtype) -> None:
        shape = (2, config.num_key_value_heads, max_tokens, config.head_dim)
        self._layers = [torch.empty(shape, dtype=dtype) for _ in range(config.num_hidden_layers)]
        self.max_tokens = max_tokens

    def extend(self, layer: int, start: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens and return those of all tokens so far.

        Args:
            layer: Index of the decoder layer.
            start: Position of the first new token.
            keys_values: (2, num_kv_heads, num_new_tokens, head_dim).

        Returns:
            Keys and values, each (num_kv_heads, start + num_new_tokens, head_dim), views of the
            store.
        """
        store = self._layers[layer]
        end = start + keys_values.shape[2]
        store[:, :, start:end] = keys_values
        return store[0, :, :end], store[1, :, :end]

    def take(self, other: Self, num_tokens: int, *, is_last_use: bool) -> None:
        """Copy the first tokens of another cache, or move them, which empties it layer by layer."""
        for layer, store in enumerate(self._layers):
            store[:, :, :num_tokens] = other._layers[layer][:, :, :num_tokens]
            if is_last_use:
                other._layers[layer] = store[:, :, :0]


def kv_bytes_per_token(config: TextConfig, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token in all layers."""
    per_layer = 2 * config.num_key_value_heads * config.head_dim
    return int(per_layer * config.num_hidden_layers * dtype.itemsize)
