"""Linear layers whose weights are kept in the order in which oneDNN's kernels read them, or as int8.

PyTorch's own `linear` takes MKL for float32 and reorders bfloat16 weights in every call. Weights that are
reordered once are two to five times faster on processors with AVX-512.
"""

# ruff: noqa: SLF001  (operators of PyTorch that its compiler uses; `can_pack` tests them)

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own convention)
from torch import Tensor, nn

__all__ = ["Int8Linear", "PackedLinear", "can_compute_int8", "can_pack"]

_log = logging.getLogger(__name__)

# The number of rows that the order of the weights is chosen for; one order serves all numbers nearly as well.
_TYPICAL_ROWS = 128
# Half the range of a quantised activation. Products of 7 bits and int8 weights cannot overflow the 16-bit
# sums of processors without VNNI.
_LEVELS = 63
# Distance of two neighbouring high parts, in units of the low part.
_RATIO = 2 * _LEVELS


class PackedLinear(nn.Module):
    """A linear layer in the type of its weights.

    Args:
        weight: (out_features, in_features), reordered if it is not shared with another module.
        bias: (out_features,), or None.
        is_shared: Whether another module needs the weight as it is.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, is_shared: bool = False) -> None:
        super().__init__()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self.weight = weight if is_shared else reorder(weight, _TYPICAL_ROWS)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (num_rows, in_features)."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return output


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, scaled by output channel, in the type of its input.

    Each row of the input is written as the sum of two 7-bit numbers with one scale, which the kernel sees
    as two rows. The result therefore deviates only by the rounding of the weights, and, because integers
    are summed exactly, does not depend on the other rows.

    Args:
        weight: (out_features, in_features), float32.
        bias: (out_features,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.scale = weight.abs().amax(dim=1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
        quantized = (weight / self.scale[:, None]).round_().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(quantized, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = None if bias is None else bias.float()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (num_rows, in_features)."""
        rows, scale = _in_two_parts(x.float())
        sums = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, _LEVELS + 1, self.weight, self.scale, self.zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        high, low = sums.chunk(2)
        output: Tensor = high.add_(low, alpha=1 / _RATIO).mul_(scale)
        if self.bias is not None:
            output += self.bias
        return output.to(x.dtype)


def _in_two_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise rows to high + low / `_RATIO`.

    Returns:
        uint8, (2 * num_rows, in_features), the high parts first, moved by `_LEVELS` + 1; and the scale of
        each row, float32, (num_rows, 1).
    """
    scale = x.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny) / _LEVELS
    scaled = x / scale
    parts = torch.empty((2, *x.shape))
    torch.round(scaled, out=parts[0])
    torch.sub(scaled, parts[0], out=parts[1])
    parts[1].mul_(_RATIO).round_()
    return parts.add_(_LEVELS + 1).to(torch.uint8).flatten(0, 1), scale


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch computes `PackedLinear` correctly in `dtype`."""
    return _computes(lambda weight: PackedLinear(weight.to(dtype), None), dtype)


@cache
def can_compute_int8() -> bool:
    """Whether this build of PyTorch computes `Int8Linear` correctly."""
    return _computes(lambda weight: Int8Linear(weight, None), torch.float32)


def _computes(make: Callable[[Tensor], nn.Module], dtype: torch.dtype) -> bool:
    """Compare a layer with PyTorch's own `linear` on a small matrix."""
    weight = torch.linspace(-1, 1, 64 * 48).reshape(64, 48).sin_()
    x = torch.linspace(-2, 2, 3 * 48).reshape(3, 48).cos_()
    try:
        result = make(weight)(x.to(dtype)).float()
    except (AttributeError, NotImplementedError, RuntimeError) as err:
        _log.debug("oneDNN layers cannot be used: %s", err)
        return False
    return torch.allclose(result, F.linear(x, weight), atol=0.2)
