"""Bytes of a model's weights, as files and in the memory of the CPU engine."""

from typing import Literal, TypeAlias

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.planner.gpus import GIB
from internvl_server.planner.parameters import num_parameters, text_layer_matrices
from internvl_server.settings import CpuSettings

__all__ = ["CpuType", "cpu_bytes", "cpu_type_that_fits", "file_bytes"]

CpuType: TypeAlias = Literal["float32", "bfloat16", "int8"]

_BYTES = {"float32": 4, "bfloat16": 2}
_PROGRAM_BYTES = GIB * 3 // 4  # PyTorch, the server and the processes that decode images: estimate


def file_bytes(model: CheckpointConfig) -> int:
    """Bytes of the weights as they are published: 16 bits, or the bits of the quantization.

    Each group of quantized weights has a 16-bit scale, and a zero point of as many bits as a weight.
    """
    quantization = model.quantization
    matrices = model.text.num_hidden_layers * text_layer_matrices(model.text)
    if quantization.method is None:
        return 2 * num_parameters(model)
    bits = quantization.bits
    group_bits = (16 + bits) / quantization.group_size
    return 2 * (num_parameters(model) - matrices) + int(matrices * (bits + group_bits) / 8)


def cpu_bytes(model: CheckpointConfig, dtype: CpuType, settings: CpuSettings | None = None) -> int:
    """Memory of the CPU engine with its caches full: an estimate for the program, exact for the rest.

    With `int8`, what is not rounded is float32, as `engine.cpu.dtype` is by default.
    """
    settings = settings or CpuSettings()
    caches = settings.kv_cache_bytes + settings.feature_cache_bytes
    return _weights(model, dtype) + caches + _PROGRAM_BYTES


def cpu_type_that_fits(model: CheckpointConfig, num_bytes: int) -> CpuType | None:
    """The most exact type of weights with which the CPU engine fits; None if none does."""
    types: tuple[CpuType, ...] = ("float32", "bfloat16", "int8")
    return next((dtype for dtype in types if cpu_bytes(model, dtype) <= num_bytes), None)


def _weights(model: CheckpointConfig, dtype: CpuType) -> int:
    if dtype != "int8":
        return _BYTES[dtype] * num_parameters(model)
    text = model.text
    rounded = (
        text.num_hidden_layers * text_layer_matrices(text) + text.vocab_size * text.hidden_size
    )
    # A tied output matrix is one more, because the table of the input is not rounded.
    others = num_parameters(model) - rounded
    if text.is_tied:
        others += text.vocab_size * text.hidden_size
    return rounded + _BYTES["float32"] * others
