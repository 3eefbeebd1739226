"""The precision of training on a CPU."""

from __future__ import annotations

import torch


def mixed_precision() -> torch.autocast:
    """Return a context that computes in bfloat16 where the CPU has instructions for it.

    Without them PyTorch emulates bfloat16, which makes matrix products about fifty times slower
    than in float32.
    """
    capabilities = torch.cpu.get_capabilities()
    is_native = any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_native)
