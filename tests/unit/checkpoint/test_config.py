"""What is read about text models of different families; sizes left out are those of transformers' classes."""

from typing import Any

import pytest
from internvl_server.checkpoint.config import TextConfig, parse_config

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def text_of(**fields: Any) -> TextConfig:
    """The text section, in the authors' layout."""
    vision = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    }
    architecture = {"architectures": ["InternVLChatModel"]}
    config = {**architecture, "vision_config": vision, "llm_config": {**SIZES, **fields}}
    return parse_config(config, "x").text


@pytest.mark.parametrize(
    ("named", "family"),
    [
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "x"}, "qwen2"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "qwen3"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "qwen3_moe"),
        ({"architectures": ["InternLM2ForCausalLM"]}, "internlm2"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe"),
        ({}, "qwen2"),
    ],
)
def test_the_family_is_named_by_either_field(named: dict[str, Any], family: str) -> None:
    assert text_of(**named).family == family


@pytest.mark.parametrize("family", ["internlm3", "llama", "qwen2", "qwen3", "qwen3_moe"])
def test_what_a_config_leaves_out_is_what_transformers_assumes(family: str) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto import CONFIG_MAPPING

    text = text_of(model_type=family)
    config = CONFIG_MAPPING[family](**SIZES)
    built = AutoModelForCausalLM.from_config(config)
    attention = built.model.layers[0].self_attn
    assert attention.head_dim == text.head_dim
    assert (attention.q_proj.bias is not None) == text.has_qkv_bias
    assert hasattr(attention, "q_norm") == text.has_qk_norm
    assert getattr(config, "num_experts", 0) == text.num_experts
    assert getattr(config, "num_experts_per_tok", 0) == text.num_experts_per_tok
    assert getattr(config, "moe_intermediate_size", 0) == text.moe_intermediate_size


def test_sizes_of_a_mixture_of_experts_are_read() -> None:
    fields = {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text = text_of(model_type="qwen3_moe", head_dim=16, **fields)
    assert fields == {name: getattr(text, name) for name in fields}
    assert text.head_dim == 16


@pytest.mark.parametrize(("bias", "expected"), [({"bias": True}, True), ({"bias": False}, False)])
def test_internlm2_states_its_biases(bias: dict[str, Any], expected: bool) -> None:
    text = text_of(architectures=["InternLM2ForCausalLM"], **bias)
    assert (text.has_qkv_bias, text.has_qk_norm, text.head_dim) == (expected, False, 8)
