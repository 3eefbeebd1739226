"""LMDeploy's own weight loading on a machine without a GPU: its native modules only remember what they get.

Everything up to them is the real code: names in the checkpoint, formats of weights, joined and split
matrices, the share of each GPU.
"""

import math
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from lmdeploy.turbomind import TurboMind, _turbomind, checkpoint
from lmdeploy.turbomind.builders import _base
from lmdeploy.turbomind.model_loader import ModelLoader

__all__ = ["Module", "load_weights"]

_TYPES = _turbomind.DataType
_BYTES = {
    _TYPES.TYPE_FP32: 4, _TYPES.TYPE_FP16: 2, _TYPES.TYPE_BF16: 2, _TYPES.TYPE_INT32: 4,
    _TYPES.TYPE_UINT4: 0.5,
}  # fmt: skip


@dataclass
class Parameter:
    """A place for a tensor; a type that is left out is that of the tensor."""

    shape: list[int] = field(default_factory=list)
    type: Any = None
    tensor: torch.Tensor | None = None

    def alloc(self, shape: list[int], dtype: Any) -> "Parameter":
        assert self.tensor is None
        self.shape, self.type = shape, dtype
        return self

    @property
    def byte_size(self) -> int:
        return int(math.prod(self.shape) * _BYTES[self.type])

    def copy_from(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


@dataclass
class Module:
    """A native module with its children and parameters by name."""

    config: Any = None
    children: dict[str, "Module"] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def add_child_raw(self, name: str, child: "Module") -> None:
        self.children[name] = child

    def param(self, name: str) -> Parameter:
        return self.parameters.setdefault(name, Parameter())

    def set_plan(self, plan: Any) -> None:
        pass

    def tensors(self, path: str = "") -> dict[str, torch.Tensor]:
        """Every tensor by its path."""
        own = {}
        for name, parameter in self.parameters.items():
            assert parameter.tensor is not None, path + name
            own[path + name] = parameter.tensor
        for name, child in self.children.items():
            own |= child.tensors(f"{path}{name}.")
        return own

    def configs(self, path: str = "") -> dict[str, Any]:
        """The sizes and constants that every module was made with, by its path."""
        found = {} if self.config is None else {path: _values_of(self.config)}
        for name, child in self.children.items():
            found |= child.configs(f"{path}{name}.")
        return found

    @property
    def num_bytes(self) -> int:
        own = sum(parameter.byte_size for parameter in self.parameters.values())
        return own + sum(child.num_bytes for child in self.children.values())


def _values_of(config: Any) -> Any:
    """The members of a native config, and of those in it."""
    if not type(config).__module__.endswith("_turbomind") or hasattr(type(config), "__members__"):
        return config
    names = [name for name in dir(config) if not name.startswith("_")]
    values = {name: getattr(config, name) for name in names}
    return {name: _values_of(value) for name, value in values.items() if not callable(value)}


class Device:
    """What `TurboMind.model_comm` tells of its GPUs, and stands for one of them."""

    def __init__(self, tp: int) -> None:
        self.roots = [Module() for _ in range(tp)]

    def context(self, gpu: int) -> Any:
        return nullcontext()

    def gemm(self, gpu: int) -> Any:
        """Kernels that want nothing but whole groups of quantized weights."""

        def get_weight_plan(query: Any) -> Any:
            invalid = _TYPES.TYPE_INVALID
            group = query.weight_format.block_sizes[0]
            return SimpleNamespace(
                family="any", bridge=(1, 1, invalid, invalid), shape_constraints=((1, 1), (group, 1)),
                gate_up=lambda activation, width: 0,
            )  # fmt: skip

        return SimpleNamespace(get_weight_plan=get_weight_plan)

    def root(self, gpu: int) -> Module:
        return self.roots[gpu]

    def ep_rank(self, gpu: int) -> int:
        return 0

    def attn_tp_rank(self, gpu: int) -> int:
        return gpu

    mlp_tp_rank = model_tp_rank = attn_tp_rank


def load_weights(turbomind: TurboMind, folder: Path, tp: int = 1) -> tuple[list[Module], set[str]]:
    """Load a checkpoint's weights.

    Returns:
        What each GPU holds, and the checkpoint's tensors that nothing asked for, by LMDeploy's names.
    """
    device, asked = Device(tp), set()
    source = turbomind.source_model

    def read(self: Any, key: str, index: int | None = None) -> torch.Tensor:
        asked.add(key)
        tensor = self._data[key]
        return tensor if index is None else tensor[index]

    kept: list[Any] = []
    create = checkpoint.create_checkpoint

    def remember(*arguments: Any, **options: Any) -> Any:
        kept.append(create(*arguments, **options))
        kept.append(set(kept[0].keys()))
        return kept[0]

    with ExitStack() as patches:
        for target, name, value in (
            (checkpoint.SafetensorsCheckpoint, "get", read),
            (checkpoint.SafetensorsCheckpoint, "pop", read),
            (_base._tm, "create_module", Module),
            (torch.Tensor, "cuda", lambda self: self),
            (torch.cuda, "empty_cache", lambda: None),
        ):
            patches.enter_context(mock.patch.object(target, name, value))
        patches.enter_context(
            mock.patch("lmdeploy.turbomind.model_loader.create_checkpoint", remember)
        )
        types = {torch.bfloat16: _TYPES.TYPE_BF16, torch.float16: _TYPES.TYPE_FP16}
        config = turbomind.engine_config
        dtype = types[getattr(torch, config.dtype)]
        ModelLoader(source, device, tp, str(folder), dtype, config).export()
    return device.roots, kept[1] - asked
