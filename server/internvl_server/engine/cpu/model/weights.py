"""Loads a checkpoint's safetensors, in either layout, into the model."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.engine.cpu.model.internvl import InternVL
from internvl_server.engine.cpu.model.layouts import older_name, stored_names
from internvl_server.errors import StartupError

__all__ = ["load_model"]

logger = logging.getLogger(__name__)

# Names listed in a message before "and N more".
_MAX_NAMED = 4
_HEAD = "language_model.lm_head.weight"


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where one tensor is stored: `key` in the file `path`."""

    path: Path
    key: str
    shape: tuple[int, ...]


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, *, max_model_len: int) -> InternVL:
    """Build the model and fill it tensor by tensor, casting each to `dtype`.

    Needs memory for the model; one file at a time is mapped.

    Raises:
        StartupError: A tensor is missing or of another shape, or a file cannot be read.
    """
    try:
        stored = _find_tensors(checkpoint.path)
        with torch.device("meta"):
            model = InternVL(checkpoint.config)
        model = model.to(dtype).to_empty(device="cpu").requires_grad_(requires_grad=False).eval()
        if checkpoint.config.text.is_tied and _HEAD not in stored:
            model.decoder.head.weight = model.decoder.embed.weight
        _copy(_match(model, stored, checkpoint))
    except (SafetensorError, OSError) as err:
        raise StartupError(f"The checkpoint's weights cannot be read: {err}") from err
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
) -> dict[Path, list[tuple[str, Tensor]]]:
    """For each file, the keys to read and the parameter rows that each key fills."""
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
        logger.warning("Tensors of the checkpoint that the model does not use: %s", _few(unused))
    plan = defaultdict(list)
    for name, names in wanted.items():
        sources = [stored[part] for part in names]
        for source, rows in _rows(name, model.get_parameter(name), sources):
            plan[source.path].append((source.key, rows))
    return plan


def _rows(name: str, parameter: Tensor, sources: list[_Stored]) -> Iterable[tuple[_Stored, Tensor]]:
    shape = tuple(parameter.shape)
    shapes = [source.shape for source in sources]
    num_rows = [stored[0] for stored in shapes if stored]
    if sum(num_rows) != shape[0] or any(stored[1:] != shape[1:] for stored in shapes):
        keys = " + ".join(source.key for source in sources)
        raise StartupError(
            f"The checkpoint's {keys} has the shape {shapes}; its config.json requires {shape} "
            f"({name})."
        )
    return zip(sources, torch.split(parameter, num_rows), strict=True)


def _copy(plan: Mapping[Path, list[tuple[str, Tensor]]]) -> None:
    for path, items in plan.items():
        with safe_open(path, framework="pt") as file:
            for key, rows in items:
                rows.copy_(file.get_tensor(key))


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMED])
    num_left = len(names) - _MAX_NAMED
    return f"{shown} and {num_left} more" if num_left > 0 else shown
