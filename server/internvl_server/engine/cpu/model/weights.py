"""Loads a checkpoint's safetensors, in either layout, into the model."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.engine.cpu.model.internvl import InternVL
from internvl_server.engine.cpu.model.layouts import older_name, stored_names
from internvl_server.engine.cpu.model.linear import (
    Int8Linear,
    PackedLinear,
    can_compute_int8,
    can_pack,
)
from internvl_server.errors import StartupError

__all__ = ["load_model"]

_log = logging.getLogger(__name__)

# Names listed in a message before "and N more".
_MAX_NAMED = 4
_HEAD = "language_model.lm_head.weight"


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where one tensor is stored: `key` in the file `path`."""

    path: Path
    key: str
    shape: tuple[int, ...]


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype, *, max_model_len: int, is_int8: bool = False
) -> InternVL:
    """Build the model and fill it module by module, casting each tensor to `dtype`.

    Needs memory for the model and its largest matrix; one file at a time is mapped.

    Args:
        checkpoint: Its config and folder.
        dtype: Type of the weights and of the arithmetic.
        max_model_len: Positions to compute rope tables for.
        is_int8: Whether the matrices of the text model are rounded to int8.

    Raises:
        StartupError: A tensor is missing or of another shape, or a file cannot be read.
    """
    if is_int8 and not can_compute_int8():
        raise StartupError(
            "engine.cpu.quantization is int8, which this build of PyTorch cannot compute here."
        )
    try:
        stored = _find_tensors(checkpoint.path)
        with torch.device("meta"):
            model = InternVL(checkpoint.config).requires_grad_(requires_grad=False).eval()
        is_tied = checkpoint.config.text.is_tied and _HEAD not in stored
        if is_tied:
            model.decoder.head.weight = model.decoder.embed.weight
        _fill(model, _match(model, stored, checkpoint), dtype, is_int8=is_int8)
    except (SafetensorError, OSError) as err:
        raise StartupError(f"The checkpoint's weights cannot be read: {err}") from err
    if is_tied:
        model.decoder.head = _tied_head(model.decoder.embed.weight, is_int8=is_int8)
    model.decoder.prepare(max_model_len)
    return model


def _find_tensors(folder: Path) -> dict[str, _Stored]:
    """Find every stored tensor by its older name; reads only the headers of the files."""
    found = {}
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (not a mapping)
                shape = tuple(file.get_slice(key).get_shape())
                found[older_name(key)] = _Stored(path, key, shape)
    return found


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        path = folder / "model.safetensors"
        if not path.exists():
            raise StartupError(
                "The checkpoint folder has neither model.safetensors nor "
                "model.safetensors.index.json; the CPU engine reads no other weight files."
            )
        return [path]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise StartupError(f"{index.name} of the checkpoint is not a weight index.") from err
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise StartupError(f"The checkpoint folder lacks {_few(missing)}, named in {index.name}.")
    return sorted(folder / name for name in names)


def _match(
    model: InternVL, stored: Mapping[str, _Stored], checkpoint: Checkpoint
) -> dict[str, list[_Stored]]:
    """For each parameter, the stored tensors whose rows form it."""
    wanted = {
        name: stored_names(name, checkpoint.config.layout) for name, _ in model.named_parameters()
    }
    parts = {part for names in wanted.values() for part in names}
    if missing := sorted(parts - stored.keys()):
        config = checkpoint.config
        raise StartupError(
            f"The checkpoint lacks {len(missing)} tensors of an InternVL model with InternViT and "
            f"{config.text.family} in the {config.layout!r} layout: {_few(missing)}. Quantised weights are "
            "not supported."
        )
    if unused := sorted(stored.keys() - parts):
        _log.warning("Tensors of the checkpoint that the model does not use: %s", _few(unused))
    sources = {name: [stored[part] for part in names] for name, names in wanted.items()}
    for name, parameter in model.named_parameters():
        _check_shape(name, tuple(parameter.shape), sources[name])
    return sources


def _check_shape(name: str, shape: tuple[int, ...], sources: list[_Stored]) -> None:
    shapes = [source.shape for source in sources]
    num_rows = sum(stored[0] for stored in shapes if stored)
    if num_rows != shape[0] or any(stored[1:] != shape[1:] for stored in shapes):
        keys = " + ".join(source.key for source in sources)
        raise StartupError(
            f"The checkpoint's {keys} has the shape {shapes}; its config.json requires {shape} "
            f"({name})."
        )


def _fill(
    model: InternVL, sources: Mapping[str, list[_Stored]], dtype: torch.dtype, *, is_int8: bool
) -> None:
    """Replace the parameters, which have no memory yet, by stored tensors, and pack linear layers."""
    for path, module in list(model.named_modules()):
        prefix = path + "." if path else ""
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and prefix + name + ".weight" in sources:
                is_text = path.startswith("decoder")
                linear = _read_linear(prefix + name, sources, dtype, is_int8=is_int8 and is_text)
                setattr(module, name, linear)
        if not isinstance(module, nn.Linear):
            for name, _ in list(module.named_parameters(recurse=False)):
                setattr(module, name, _parameter(_read(sources[prefix + name], dtype)))


def _read_linear(
    name: str, sources: Mapping[str, list[_Stored]], dtype: torch.dtype, *, is_int8: bool
) -> nn.Module:
    weight = _read(sources[f"{name}.weight"], torch.float32 if is_int8 else dtype)
    bias = _read(sources[f"{name}.bias"], dtype) if f"{name}.bias" in sources else None
    return _linear(weight, bias, is_int8=is_int8)


def _tied_head(embeddings: Tensor, *, is_int8: bool) -> nn.Module:
    """The head that has the embeddings as its weight, in the same memory unless it is int8."""
    return _linear(
        embeddings.float() if is_int8 else embeddings, None, is_int8=is_int8, is_shared=True
    )


def _linear(
    weight: Tensor, bias: Tensor | None, *, is_int8: bool, is_shared: bool = False
) -> nn.Module:
    """The fastest module that this build of PyTorch has for the weights."""
    if is_int8:
        return Int8Linear(weight, bias)
    if can_pack(weight.dtype):
        return PackedLinear(weight, bias, is_shared=is_shared)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = _parameter(weight)
    linear.register_parameter("bias", None if bias is None else _parameter(bias))
    return linear


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _read(sources: list[_Stored], dtype: torch.dtype) -> Tensor:
    """Stored tensors, stacked by rows."""
    rows = sum(source.shape[0] for source in sources)
    result = torch.empty((rows, *sources[0].shape[1:]), dtype=dtype)
    parts = torch.split(result, [source.shape[0] for source in sources])
    for source, part in zip(sources, parts, strict=True):
        with safe_open(source.path, framework="pt") as file:
            part.copy_(file.get_tensor(source.key))
    return result


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMED])
    num_left = len(names) - _MAX_NAMED
    return f"{shown} and {num_left} more" if num_left > 0 else shown
