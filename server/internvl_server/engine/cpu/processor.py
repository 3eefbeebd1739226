"""What this machine's processor computes natively."""

import logging
from collections.abc import Mapping

import torch

from internvl_server.settings import CpuSettings

__all__ = ["choose_dtype"]

_log = logging.getLogger(__name__)

# As `torch.cpu.get_capabilities` names them: x86 with AVX-512 or AMX, and ARM.
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def choose_dtype(settings: CpuSettings) -> torch.dtype:
    """Data type of the arithmetic: the one that is set, or for `auto` the fastest of this processor.

    Without instructions for bfloat16, PyTorch converts every number, which takes several times longer than
    float32. PyTorch before 2.10 cannot say what the processor has; `auto` then means float32.
    """
    if settings.dtype != "auto":
        return torch.float32 if settings.dtype == "float32" else torch.bfloat16
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    has_kernels: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_bfloat16 = has_kernels and any(map(capabilities.get, _BFLOAT16_INSTRUCTIONS))
    dtype = torch.bfloat16 if has_bfloat16 else torch.float32
    _log.info(
        "engine.cpu.dtype is auto: computing in %s, because the processor has %s for bfloat16",
        str(dtype).removeprefix("torch."),
        "instructions" if has_bfloat16 else "no instructions",
    )
    return dtype
