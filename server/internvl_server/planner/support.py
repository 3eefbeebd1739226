"""Which checkpoints can be served at all, whatever the GPUs."""

from pathlib import Path

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.errors import StartupError
from internvl_server.planner.models import find_repository, why_unserved

__all__ = ["CPU_TEXT_MODELS", "check_quantization", "check_served", "check_text_model"]

CPU_TEXT_MODELS = ("qwen2", "qwen3")  # those that the CPU engine computes
_TEXT_MODELS = ("qwen2", "qwen3", "qwen3_moe", "internlm2", "internlm3", "llama")
# Bits of a weight and sizes of groups that LMDeploy computes, by method. Source: turbomind/converter.py.
_QUANTIZED = {
    "awq": (4, (128,)),
    "gptq": (4, (128,)),
    "compressed-tensors": (4, (32, 128)),
    "fp8": (8, (128,)),
}


def check_served(path: str) -> None:
    """Refuse what cannot be served under this name, before anything is downloaded.

    That is a published checkpoint that no engine can serve, or the short name of a published model.

    Args:
        path: `model.path`. A folder passes, whatever its name.

    Raises:
        StartupError: The message says why, and what to serve instead.
    """
    if Path(path).is_dir():
        return
    if problem := why_unserved(path):
        raise StartupError(problem)
    if found := find_repository(path):
        raise StartupError(
            f"model.path: there is no folder {path!r}. To serve the published model, write OpenGVLab/{found}."
        )


def check_text_model(model: CheckpointConfig) -> None:
    """Refuse a text model that LMDeploy lacks, or whose prompts this server does not write.

    Raises:
        StartupError: It names those that there are.
    """
    if model.text.family not in _TEXT_MODELS:
        raise StartupError(
            f"The text model of {model.name} is {model.text.family!r}; the turbomind engine runs "
            f"{', '.join(_TEXT_MODELS)}."
        )


def check_quantization(model: CheckpointConfig) -> None:
    """Refuse quantized weights that LMDeploy does not compute.

    Raises:
        StartupError: It names the bits and groups, and those that are computed.
    """
    found = model.quantization
    if found.method is None:
        return
    bits, groups = _QUANTIZED.get(found.method, (0, ()))
    if found.bits != bits or found.group_size not in groups:
        raise StartupError(
            f"config.json of {model.name} has the quantization {found.method!r} with {found.bits} bits in "
            f"groups of {found.group_size}; LMDeploy computes AWQ and GPTQ with 4 bits in groups of 128, "
            "compressed-tensors with 4 bits in groups of 32 or 128, and FP8 in blocks of 128."
        )
