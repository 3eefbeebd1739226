#!/usr/bin/env python3
"""Write an InternVL3 checkpoint with random weights, for tests and measurements.

    python scripts/make_random_checkpoint.py --shape tiny --layout hf --out random-checkpoint

Names and shapes follow transformers' `-hf` layout; `authors_tensors` renames them to the authors'.
The weights are scaled so that hidden states stay near 1 and the best two logits are far apart.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

ADDED_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>",
    "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>",
    "<ref>", "</ref>", "<box>", "</box>",
)  # fmt: skip
NOT_SPECIAL = {"<tool_call>", "</tool_call>"} | {t for t in ADDED_TOKENS if t.startswith("<|fim")}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. `num_base_tokens` is the vocabulary without the added tokens."""

    num_base_tokens: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    max_len: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    tile_px: int
    is_6b_style: bool = False
    is_tied: bool = False

    @property
    def vocab(self) -> int:
        return self.num_base_tokens + len(ADDED_TOKENS)

    @property
    def tokens_per_tile(self) -> int:
        return (self.tile_px // 28) ** 2


SHAPES = {
    "tiny": Shape(320, 64, 3, 4, 2, 128, 2048, 48, 2, 4, 96, 56),
    "1b": Shape(151_643, 896, 24, 14, 2, 4864, 32_768, 1024, 24, 16, 4096, 448),
}


def write_checkpoint(
    out: Path, shape: Shape, *, layout: str = "hf", dtype: str = "float32", seed: int = 0
) -> None:
    """Write a whole checkpoint folder; one shard a group of tensors, one shard in memory."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in _configs(shape, layout, dtype).items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(out, shape)
    weight_map: dict[str, str] = {}
    size = 0
    for number, group in enumerate(tensor_groups(shape, seed), 1):
        name = f"model-{number:05d}.safetensors"
        tensors = group if layout == "hf" else authors_tensors(group)
        tensors = {key: t.to(getattr(torch, dtype)).contiguous() for key, t in tensors.items()}
        save_file(tensors, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        size += sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def tensor_groups(shape: Shape, seed: int) -> Iterator[dict[str, Tensor]]:
    """Tensors, float32, by their `-hf` names of before transformers 4.52; a group a layer."""
    rng = torch.Generator().manual_seed(seed)

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> dict[str, Tensor]:
        weight = torch.randn(rows, columns, generator=rng) / columns**0.5
        tensors = {f"{name}.weight": weight}
        return tensors | ({f"{name}.bias": 0.1 * vector(rows)} if bias else {})

    def vector(size: int) -> Tensor:
        return torch.randn(size, generator=rng)

    def norm(name: str, size: int, *, bias: bool = False) -> dict[str, Tensor]:
        tensors = {f"{name}.weight": 1 + 0.1 * vector(size)}
        return tensors | ({f"{name}.bias": 0.1 * vector(size)} if bias else {})

    v, h, is_ln = shape.vision_hidden, shape.hidden, not shape.is_6b_style
    num_patches = (shape.tile_px // 14) ** 2
    embeddings = "vision_tower.embeddings"
    patch = linear(f"{embeddings}.patch_embeddings.projection", v, 3 * 14 * 14)
    patch[f"{embeddings}.patch_embeddings.projection.weight"].resize_(v, 3, 14, 14)
    yield {
        f"{embeddings}.cls_token": vector(v).view(1, 1, v),
        f"{embeddings}.position_embeddings": 0.5 * vector((num_patches + 1) * v).view(1, -1, v),
        **patch,
        **norm("multi_modal_projector.layer_norm", 4 * v, bias=True),
        **linear("multi_modal_projector.linear_1", h, 4 * v),
        **linear("multi_modal_projector.linear_2", h, h),
    }
    for i in range(shape.vision_layers):
        layer = f"vision_tower.encoder.layer.{i}"
        group: dict[str, Tensor] = {}
        for x in "qkv":
            group |= linear(f"{layer}.attention.{x}_proj", v, v, bias=is_ln)
        if shape.is_6b_style:
            group |= norm(f"{layer}.attention.q_norm", v) | norm(f"{layer}.attention.k_norm", v)
        yield {
            **group,
            **linear(f"{layer}.attention.projection_layer", v, v),
            **norm(f"{layer}.layernorm_before", v, bias=is_ln),
            **norm(f"{layer}.layernorm_after", v, bias=is_ln),
            f"{layer}.lambda_1": 0.3 + 0.1 * vector(v),
            f"{layer}.lambda_2": 0.3 + 0.1 * vector(v),
            **linear(f"{layer}.mlp.fc1", shape.vision_mlp, v),
            **linear(f"{layer}.mlp.fc2", v, shape.vision_mlp),
        }
    model = "language_model.model"
    yield {f"{model}.embed_tokens.weight": vector(shape.vocab * h).view(-1, h)}
    for i in range(shape.layers):
        layer = f"{model}.layers.{i}"
        kv = shape.kv_heads * h // shape.heads
        yield {
            **norm(f"{layer}.input_layernorm", h),
            **linear(f"{layer}.self_attn.q_proj", h, h),
            **linear(f"{layer}.self_attn.k_proj", kv, h),
            **linear(f"{layer}.self_attn.v_proj", kv, h),
            **linear(f"{layer}.self_attn.o_proj", h, h, bias=False),
            **norm(f"{layer}.post_attention_layernorm", h),
            **linear(f"{layer}.mlp.gate_proj", shape.mlp, h, bias=False),
            **linear(f"{layer}.mlp.up_proj", shape.mlp, h, bias=False),
            **linear(f"{layer}.mlp.down_proj", h, shape.mlp, bias=False),
        }
    last = norm(f"{model}.norm", h)
    if shape.is_tied:
        # Of both signs, or the likeliest next token would be the last one again.
        last[f"{model}.norm.weight"] = vector(h)
    else:
        last["language_model.lm_head.weight"] = 0.5 * vector(shape.vocab * h).view(-1, h)
    yield last


_AUTHORS_NAMES = {
    "vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "vision_tower.embeddings.position_embeddings": "vision_model.embeddings.position_embedding",
    "vision_tower.embeddings.patch_embeddings.projection": (
        "vision_model.embeddings.patch_embedding"
    ),
    "vision_tower.encoder.layer": "vision_model.encoder.layers",
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
    "multi_modal_projector.layer_norm": "mlp1.0",
    "multi_modal_projector.linear_1": "mlp1.1",
    "multi_modal_projector.linear_2": "mlp1.3",
}


def authors_tensors(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as `InternVLChatModel` stores them: q, k and v of the ViT are one."""
    tensors = {}
    for key, tensor in group.items():
        name = key
        for old, new in _AUTHORS_NAMES.items():
            name = name.replace(old, new)
        if ".attention.q_proj." in name:
            parts = [group[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            tensors[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif ".attention." not in name:
            tensors[name] = tensor
    return tensors


def _configs(shape: Shape, layout: str, dtype: str) -> dict[str, Any]:
    end = shape.num_base_tokens + ADDED_TOKENS.index("<|im_end|>")
    text = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.max_len,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "hidden_act": "silu",
        "tie_word_embeddings": shape.is_tied,
        "eos_token_id": end,
    }
    vision = {
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_mlp,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.vision_heads,
        "norm_type": "rms_norm" if shape.is_6b_style else "layer_norm",
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
    }
    make_config = _hf_config if layout == "hf" else _authors_config
    config = make_config(shape, text, vision)
    config |= {"torch_dtype": dtype, "tie_word_embeddings": shape.is_tied}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    preprocessor = {
        "crop_size": shape.tile_px,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": mean,
        "image_std": std,
        "size": shape.tile_px,
    }
    return {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [end], "do_sample": False},
        "preprocessor_config.json": preprocessor,
    }


def _hf_config(shape: Shape, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "image_token_id": shape.num_base_tokens + ADDED_TOKENS.index("<IMG_CONTEXT>"),
        "image_seq_length": shape.tokens_per_tile,
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "text_config": text,
        "vision_config": vision
        | {
            "model_type": "internvl_vision",
            "image_size": [shape.tile_px, shape.tile_px],
            "patch_size": [14, 14],
            "attention_bias": not shape.is_6b_style,
            "use_qk_norm": shape.is_6b_style,
        },
    }


def _authors_config(shape: Shape, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": "internvl2_5",
        "select_layer": -1,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "force_image_size": shape.tile_px,
        "llm_config": text,
        "vision_config": vision
        | {
            "model_type": "intern_vit_6b",
            "image_size": shape.tile_px,
            "patch_size": 14,
            "qkv_bias": not shape.is_6b_style,
            "qk_normalization": shape.is_6b_style,
        },
    }


def write_tokenizer(out: Path, shape: Shape) -> None:
    """A byte-level BPE without merges: a token a byte, unreachable ones up to the added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = list(alphabet)
    pairs = (a + b for a in alphabet for b in alphabet)
    triples = (a + b + c for a in "eatnoi" for b in alphabet for c in alphabet)
    tokens += itertools.islice(itertools.chain(pairs, triples), shape.num_base_tokens - len(tokens))
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(text, special=text not in NOT_SPECIAL, normalized=False)
            for text in ADDED_TOKENS
        ]
    )
    assert tokenizer.get_vocab_size() == shape.vocab, tokenizer.get_vocab_size()
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": shape.max_len,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--layout", choices=["hf", "authors"], default="hf")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_checkpoint(
        args.out, SHAPES[args.shape], layout=args.layout, dtype=args.dtype, seed=args.seed
    )
    print(args.out)


if __name__ == "__main__":
    main()
