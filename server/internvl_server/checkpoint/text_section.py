"""Reads the section of the text model in a config.json, whose fields differ between the families."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["text_fields"]

# What transformers' classes of text models assume where it is not the same for all of them.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "internlm3": {"head_dim": 128},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"head_dim": 128, "qk_norm": True},
    "qwen3_moe": {
        "qk_norm": True,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
}


def text_fields(layout: str, text: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The text section in the names of `TextConfig`; rope settings moved since transformers 5."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    family, eos = _family(layout, text), text.get("eos_token_id", ())
    text = {**_DEFAULTS.get(family, {}), **text}
    return {
        "rope_theta": rope.get("rope_theta", 10_000.0),
        **text,
        "family": family,
        "rope_type": rope.get("rope_type", rope.get("type", "default")),
        "rope_factor": rope.get("factor", 1.0),
        "has_qkv_bias": _has_bias(text),
        "is_tied": text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)),
        "eos_token_ids": eos if isinstance(eos, list | tuple) else [eos],
    }


def _family(layout: str, text: Mapping[str, Any]) -> str:
    """From the class name, or from the type in transformers' layout.

    The other one may be wrong: InternLM2 became Llama in transformers' layout, weights and all, but the name
    of its class stayed.
    """
    classes = text.get("architectures") or ()
    if layout == "hf" and "model_type" in text:
        classes = ()
    name = str(next(iter(classes), text.get("model_type", "qwen2")))
    name = re.sub(r"(ForCausalLM|Model)$", "", name)
    return re.sub(r"(?<=\d)(?=Moe)", "_", name).lower()


def _has_bias(text: Mapping[str, Any]) -> bool:
    """Qwen2 always has these biases and its config omits them; the InternLM family states them."""
    return bool(text.get("qkv_bias", text.get("attention_bias", text.get("bias", False))))
