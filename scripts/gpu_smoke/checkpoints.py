"""Checkpoints of random numbers, written where they are needed: one for each way of storing weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.make_random_checkpoint import SHAPES, Shape, write_checkpoint

__all__ = ["KINDS", "Kind", "complete", "make", "pack_awq", "twin_of"]

_TWIN = "twin"  # file with the name of a folder beside it
_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_AWQ_ORDER = (
    0,
    2,
    4,
    6,
    1,
    3,
    5,
    7,
)  # which of eight columns comes where in 32 bits, the lowest first
_AWQ_LEVELS = 15
_GROUP = 128  # inputs that share a scale; LMDeploy knows no other size

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<IMG_CONTEXT>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<|video_pad|>",
}


@dataclass(frozen=True)
class Kind:
    """How a checkpoint differs from the 1B in transformers' layout."""

    layout: str = "hf"
    is_awq: bool = False
    change: Callable[[Shape], Shape] = lambda shape: shape


def _with_6b_vision(shape: Shape) -> Shape:
    """InternViT-6B's widths, norms and heads, in few layers."""
    if shape.hidden < _GROUP:
        return replace(shape, is_6b_style=True)
    return replace(
        shape, is_6b_style=True, layers=2, vision_hidden=3200, vision_layers=6, vision_heads=25,
        vision_mlp=12_800,
    )  # fmt: skip


def _with_text_of(tiny: str, large: str) -> Callable[[Shape], Shape]:
    """The shape of another family instead of this one."""
    return lambda shape: SHAPES[tiny if shape.hidden < _GROUP else large]


def _with_whole_groups(shape: Shape) -> Shape:
    """Widths that are multiples of a group of quantized weights."""
    return shape if shape.hidden > _GROUP else replace(shape, hidden=_GROUP, mlp=2 * _GROUP)


KINDS = {
    "hf": Kind(),
    "authors": Kind(layout="authors"),
    "awq": Kind(is_awq=True, change=_with_whole_groups),
    "6b-vit": Kind(change=_with_6b_vision),
    "qwen3": Kind(change=_with_text_of("tiny-qwen3", "1b-qwen3")),
    "qwen3-moe": Kind(change=_with_text_of("tiny-qwen3-moe", "2-layers-qwen3-moe")),
    # transformers has no class for its text model, so nothing is compared with it.
    "internlm2": Kind(layout="authors", change=_with_text_of("tiny-internlm2", "2b-internlm2")),
}


def make(work: Path, size: str, kind_name: str) -> Path:
    """The folder of a checkpoint; written unless it is there. Checkpoints of a size share their seed.

    Args:
        work: Gets a folder for each.
        size: A name of `SHAPES`.
        kind_name: A name of `KINDS`.
    """
    folder = work / f"internvl3-{size}-{kind_name}"
    kind = KINDS[kind_name]
    if (folder / _TWIN).exists():
        return folder
    shape = kind.change(SHAPES[size])
    if kind.is_awq:
        plain = work / f"{folder.name}-16"
        _write(plain, shape, kind)
        _quantize(plain, folder, work / f"{folder.name}-twin")
    else:
        _write(folder, shape, kind)
    twin = folder.name
    if kind_name == "authors":
        twin = make(work, size, "hf").name
    elif kind.is_awq:
        twin = f"{folder.name}-twin"
    (folder / _TWIN).write_text(twin)
    return folder


def twin_of(folder: Path) -> Path:
    """The folder with the same weights as transformers reads them; it may be `folder` itself."""
    twin = folder / _TWIN
    return folder.parent / twin.read_text() if twin.exists() else folder


def _write(folder: Path, shape: Shape, kind: Kind) -> None:
    write_checkpoint(folder, shape, layout=kind.layout, dtype="bfloat16", seed=0)
    complete(folder, shape, kind.layout)


def complete(folder: Path, shape: Shape, layout: str) -> None:
    """Add what LMDeploy's own server reads."""
    _change(folder / "tokenizer_config.json", chat_template=_TEMPLATE)
    if layout == "authors":
        return
    size = {"height": shape.tile_px, "width": shape.tile_px}
    _change(folder / "tokenizer_config.json", extra_special_tokens=_NAMED_TOKENS)
    _change(
        folder / "preprocessor_config.json",
        image_processor_type="GotOcr2ImageProcessorFast", processor_class="InternVLProcessor",
        size=size, crop_to_patches=True, min_patches=1, max_patches=12, do_rescale=True,
        rescale_factor=1 / 255, resample=3, do_convert_rgb=True,
    )  # fmt: skip
    content = {"processor_class": "InternVLProcessor", "image_seq_length": shape.tokens_per_tile}
    (folder / "processor_config.json").write_text(json.dumps(content))


def _change(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields, indent=2))


def _quantize(plain: Path, packed: Path, twin: Path) -> None:
    """Write a checkpoint with 4-bit text weights, and one in 16 bits with the values that these stand for."""
    weight_map: dict[str, str] = {}
    for folder in (packed, twin):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*plain.glob("*.json"), *plain.glob("*.jinja")):
            (folder / path.name).write_bytes(path.read_bytes())
    for shard in sorted(plain.glob("*.safetensors")):
        tensors: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, tensor in load_file(shard).items():
            stem, _, last = name.rpartition(".")
            if last == "weight" and stem.endswith(_PARTS) and "language_model" in stem:
                parts, rounded = pack_awq(tensor.float(), _GROUP)
                tensors |= {f"{stem}.{part}": value for part, value in parts.items()}
                kept[name] = rounded.half()
            else:
                tensors[name] = kept[name] = tensor.half()
        save_file(tensors, packed / shard.name, metadata={"format": "pt"})
        save_file(kept, twin / shard.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (packed / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    method = {
        "quant_method": "awq", "bits": 4, "group_size": _GROUP, "version": "gemm",
        "zero_point": True,
    }  # fmt: skip
    config = json.loads((plain / "config.json").read_text())
    _change(twin / "config.json", torch_dtype="float16")
    _change(
        packed / "config.json",
        torch_dtype="float16",
        text_config=config["text_config"] | {"quantization_config": method},
    )


def pack_awq(weight: Tensor, group_size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Quantize a weight, (outputs, inputs), to 4 bits as AWQ's GEMM format stores it.

    Returns:
        `qweight` (inputs, outputs / 8), `qzeros` and `scales` by group of inputs; and the weight, shaped as
        it was, that they stand for.
    """
    groups = weight.T.reshape(-1, group_size, weight.shape[0])
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scales = ((high - low) / _AWQ_LEVELS).clamp(min=1e-4).half()
    zeros = (-low / scales.float()).round().clamp(0, _AWQ_LEVELS)
    levels = (groups / scales.float() + zeros).round().clamp(0, _AWQ_LEVELS)
    rounded = ((levels - zeros) * scales.float()).reshape(weight.T.shape).T.contiguous()
    parts = {
        "qweight": _pack(levels.reshape(weight.T.shape)),
        "qzeros": _pack(zeros[:, 0]),
        "scales": scales[:, 0].contiguous(),
    }
    return parts, rounded


def _pack(levels: Tensor) -> Tensor:
    """Eight columns in the 32 bits of one."""
    ordered = levels.to(torch.int64).reshape(len(levels), -1, 8)[..., list(_AWQ_ORDER)]
    shifted = ordered << torch.arange(0, 32, 4)
    return shifted.sum(-1).to(torch.int32)
