#!/usr/bin/env python3
"""Write an InternVL checkpoint with random weights, for tests and measurements.

    python scripts/make_random_checkpoint.py --shape tiny --layout hf --out random-checkpoint

Names and shapes follow transformers' `-hf` layout; `authors_tensors` renames them to the authors'.
The weights are scaled so that hidden states stay near 1 and the best two logits are far apart.
The text model is that of Qwen2.5, Qwen3 (dense or with experts), InternLM2 or 3; `--awq` quantizes it.
"""

import argparse
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
QWEN3_TOKENS = ("<tool_response>", "</tool_response>", "<think>", "</think>")  # before `<img>`
INTERNLM2_TOKENS = (
    "<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>",
    *ADDED_TOKENS[ADDED_TOKENS.index("<img>") :],
)  # fmt: skip
NOT_SPECIAL = {"<tool_call>", "</tool_call>", *QWEN3_TOKENS} | {
    t for t in ADDED_TOKENS if t.startswith("<|fim")
}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. `num_base_tokens` is the vocabulary without the added tokens.

    `family` is the text model's: qwen2, qwen3, qwen3_moe, internlm2 or internlm3. `mlp` is the width of each
    of the `experts` too.
    """

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
    family: str = "qwen2"
    head_dim: int = 0
    experts: int = 0
    is_awq: bool = False

    @property
    def head(self) -> int:
        return self.head_dim or self.hidden // self.heads

    @property
    def added_tokens(self) -> tuple[str, ...]:
        if not self.family.startswith("qwen3"):
            return INTERNLM2_TOKENS if self.family == "internlm2" else ADDED_TOKENS
        place = ADDED_TOKENS.index("<img>")
        return (*ADDED_TOKENS[:place], *QWEN3_TOKENS, *ADDED_TOKENS[place:])

    @property
    def vocab(self) -> int:
        return self.num_base_tokens + len(self.added_tokens)

    def token_id(self, text: str) -> int:
        return self.num_base_tokens + self.added_tokens.index(text)

    @property
    def tokens_per_tile(self) -> int:
        return (self.tile_px // 28) ** 2


_TINY = Shape(320, 64, 3, 4, 2, 128, 2048, 48, 2, 4, 96, 56)
SHAPES = {
    "tiny": _TINY,
    # As published, the heads are wider together than the hidden state.
    "tiny-qwen3": replace(_TINY, family="qwen3", head_dim=32),
    "tiny-qwen3-moe": replace(_TINY, family="qwen3_moe", head_dim=32, experts=4),
    "tiny-internlm2": replace(_TINY, family="internlm2"),
    "tiny-internlm3": replace(_TINY, family="internlm3"),
    "1b": Shape(151_643, 896, 24, 14, 2, 4864, 32_768, 1024, 24, 16, 4096, 448),
    # The sizes of InternVL3.5-1B, of two layers of InternVL3.5-30B-A3B, and of InternVL2.5-2B.
    "1b-qwen3": Shape(
        151_643,
        1024,
        28,
        16,
        8,
        3072,
        40_960,
        1024,
        24,
        16,
        4096,
        448,
        family="qwen3",
        head_dim=128,
    ),
    "2-layers-qwen3-moe": Shape(
        151_643,
        2048,
        2,
        32,
        4,
        768,
        40_960,
        1024,
        24,
        16,
        4096,
        448,
        family="qwen3_moe",
        head_dim=128,
        experts=128,
    ),
    "2b-internlm2": Shape(
        92_538, 2048, 24, 16, 8, 8192, 32_768, 1024, 24, 16, 4096, 448, family="internlm2"
    ),
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
        tensors = group if layout == "hf" else authors_tensors(group, shape)
        tensors = {key: t.to(getattr(torch, dtype)).contiguous() for key, t in tensors.items()}
        if shape.is_awq:
            tensors = awq_tensors(tensors)
        save_file(tensors, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        size += sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


class _Weights:
    """Random tensors by name."""

    def __init__(self, seed: int) -> None:
        self._rng = torch.Generator().manual_seed(seed)

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = True) -> dict[str, Tensor]:
        weight = torch.randn(rows, columns, generator=self._rng) / columns**0.5
        tensors = {f"{name}.weight": weight}
        return tensors | ({f"{name}.bias": 0.1 * self.vector(rows)} if bias else {})

    def vector(self, size: int) -> Tensor:
        return torch.randn(size, generator=self._rng)

    def norm(self, name: str, size: int, *, bias: bool = False) -> dict[str, Tensor]:
        tensors = {f"{name}.weight": 1 + 0.1 * self.vector(size)}
        return tensors | ({f"{name}.bias": 0.1 * self.vector(size)} if bias else {})


def tensor_groups(shape: Shape, seed: int) -> Iterator[dict[str, Tensor]]:
    """Tensors, float32, by their `-hf` names of before transformers 4.52; a group a layer."""
    weights = _Weights(seed)
    yield from _vision_groups(weights, shape)
    yield from _text_groups(weights, shape)


def _vision_groups(weights: _Weights, shape: Shape) -> Iterator[dict[str, Tensor]]:
    linear, norm, vector = weights.linear, weights.norm, weights.vector
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


def _text_groups(weights: _Weights, shape: Shape) -> Iterator[dict[str, Tensor]]:
    vector, h = weights.vector, shape.hidden
    model = "language_model.model"
    yield {f"{model}.embed_tokens.weight": vector(shape.vocab * h).view(-1, h)}
    for i in range(shape.layers):
        layer = f"{model}.layers.{i}"
        yield {
            **weights.norm(f"{layer}.input_layernorm", h),
            **_attention(weights, shape, f"{layer}.self_attn"),
            **weights.norm(f"{layer}.post_attention_layernorm", h),
            **_mlps(weights, shape, f"{layer}.mlp"),
        }
    last = weights.norm(f"{model}.norm", h)
    if shape.is_tied:
        # Of both signs, or the likeliest next token would be the last one again.
        last[f"{model}.norm.weight"] = vector(h)
    else:
        last["language_model.lm_head.weight"] = 0.5 * vector(shape.vocab * h).view(-1, h)
    yield last


def _attention(weights: _Weights, shape: Shape, name: str) -> dict[str, Tensor]:
    group: dict[str, Tensor] = {}
    for x, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
        has_bias = shape.family == "qwen2"
        rows = heads * shape.head
        group |= weights.linear(f"{name}.{x}_proj", rows, shape.hidden, bias=has_bias)
    group |= weights.linear(f"{name}.o_proj", shape.hidden, shape.heads * shape.head, bias=False)
    if shape.family.startswith("qwen3"):
        group |= weights.norm(f"{name}.q_norm", shape.head)
        group |= weights.norm(f"{name}.k_norm", shape.head)
    return group


def _mlps(weights: _Weights, shape: Shape, name: str) -> dict[str, Tensor]:
    group: dict[str, Tensor] = {}
    names = [f"{name}.experts.{expert}" for expert in range(shape.experts)] or [name]
    if shape.experts:
        group |= weights.linear(f"{name}.gate", shape.experts, shape.hidden, bias=False)
    for mlp in names:
        group |= weights.linear(f"{mlp}.gate_proj", shape.mlp, shape.hidden, bias=False)
        group |= weights.linear(f"{mlp}.up_proj", shape.mlp, shape.hidden, bias=False)
        group |= weights.linear(f"{mlp}.down_proj", shape.hidden, shape.mlp, bias=False)
    return group


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


_INTERNLM2_NAMES = {
    "embed_tokens": "tok_embeddings",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "lm_head": "output",
}


def authors_tensors(group: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The same tensors as `InternVLChatModel` stores them.

    Query, key and value are one tensor in InternViT, and in InternLM2, where the queries of each key-value
    head are followed by its key and its value.
    """
    names = _AUTHORS_NAMES | (_INTERNLM2_NAMES if shape.family == "internlm2" else {})
    tensors = {}
    for key, tensor in group.items():
        name = key
        for old, new in names.items():
            name = name.replace(old, new)
        is_joined = ".attention." in key or shape.family == "internlm2"
        if is_joined and ".q_proj." in key:
            qkv = [group[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            name = name.replace("self_attn.q_proj", "attention.wqkv")
            name = name.replace("attention.q_proj", "attn.qkv")
            heads = shape.kv_heads if "wqkv" in name else 1
            parts = [x.unflatten(0, (heads, -1)) for x in qkv]
            tensors[name] = torch.cat(parts, dim=1).flatten(0, 1)
        elif not (is_joined and re.search(r"\.[kv]_proj\.", key)):
            tensors[name] = tensor
    return tensors


_AWQ_GROUP = 128
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight neighbours each four bits of an integer hold


def awq_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with the text layers' matrices in AWQ's 4 bits (the version called "gemm")."""
    quantized: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        is_matrix = ".layers." in name and name.startswith("language_model.") and tensor.ndim > 1
        if not is_matrix or name.endswith(".mlp.gate.weight"):
            quantized[name] = tensor
            continue
        stem = name.removesuffix(".weight")
        groups = tensor.float().t().unflatten(0, (-1, _AWQ_GROUP))  # inputs first
        low, high = groups.amin(1), groups.amax(1)
        scales = (high - low) / 15
        zeros = (-low / scales).round()
        values = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, 15).flatten(0, 1)
        quantized[f"{stem}.qweight"] = _packed(values)
        quantized[f"{stem}.qzeros"] = _packed(zeros)
        quantized[f"{stem}.scales"] = scales.half()
    return quantized


def _packed(values: Tensor) -> Tensor:
    """Eight values of four bits each in one integer."""
    parts = values.long().unflatten(-1, (-1, 8))[..., _AWQ_ORDER]
    total = (parts << (4 * torch.arange(8))).sum(-1)
    return torch.where(total < 1 << 31, total, total - (1 << 32)).int()


_TEXT_CLASSES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
}


def _family_fields(shape: Shape) -> dict[str, Any]:
    """What only some text models' configs say."""
    fields: dict[str, Any] = {}
    if shape.family.startswith("internlm"):
        fields = {"bias": False}
    if shape.family == "internlm3":
        fields |= {"qkv_bias": False, "head_dim": shape.head}
    if shape.head_dim:
        fields |= {"head_dim": shape.head_dim, "attention_bias": False}
    if shape.experts:
        fields |= {
            "num_experts": shape.experts,
            "num_experts_per_tok": min(8, shape.experts // 2),
            "moe_intermediate_size": shape.mlp,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    if shape.is_awq:
        fields["quantization_config"] = {
            "quant_method": "awq",
            "version": "gemm",
            "bits": 4,
            "group_size": _AWQ_GROUP,
            "zero_point": True,
        }
    return fields


def _configs(shape: Shape, layout: str, dtype: str) -> dict[str, Any]:
    end = shape.token_id("<|im_end|>")
    # Published -hf versions of InternLM keep its class name, though their weights are named as Llama's.
    model_type = shape.family
    if layout == "hf" and shape.family.startswith("internlm"):
        model_type = "llama"
    text = {
        "model_type": model_type,
        "architectures": [_TEXT_CLASSES[shape.family]],
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
        **_family_fields(shape),
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
        "image_token_id": shape.token_id("<IMG_CONTEXT>"),
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
            for text in shape.added_tokens
        ]
    )
    assert tokenizer.get_vocab_size() == shape.vocab, tokenizer.get_vocab_size()
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": shape.added_tokens[0],
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
    parser.add_argument(
        "--awq", action="store_true", help="4-bit weights; sizes must divide by 128"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shape = replace(SHAPES[args.shape], is_awq=args.awq)
    write_checkpoint(args.out, shape, layout=args.layout, dtype=args.dtype, seed=args.seed)
    print(args.out)


if __name__ == "__main__":
    main()
