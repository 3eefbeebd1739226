"""Parameter counts, against the tensors transformers makes of the same sizes and the published totals."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from internvl_server.checkpoint.config import CheckpointConfig, parse_config
from internvl_server.errors import StartupError
from internvl_server.planner.check import model_at
from internvl_server.planner.models import (
    MODELS,
    find_model,
    repositories,
    smaller,
    why_unserved,
)
from internvl_server.planner.parameters import num_parameters
from internvl_server.settings import DEMO_MODEL

# In billions: as their authors' model cards give them, rounded as there.
PUBLISHED = {
    "InternVL2_5-26B": 25.5, "InternVL3-1B": 0.94, "InternVL3-2B": 2.09, "InternVL3-8B": 7.94,
    "InternVL3-9B": 9.14, "InternVL3-14B": 15.1, "InternVL3-38B": 38.4, "InternVL3-78B": 78.4,
    "InternVL3_5-1B": 1.1, "InternVL3_5-2B": 2.3, "InternVL3_5-4B": 4.7, "InternVL3_5-8B": 8.5,
    "InternVL3_5-14B": 15.1, "InternVL3_5-38B": 38.4, "InternVL3_5-30B-A3B": 30.8,
    "InternVL3_5-241B-A28B": 240.7,
}  # fmt: skip
CLASSES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
}


def hf_config(model: CheckpointConfig) -> dict[str, Any]:
    """The config.json of transformers' layout, in which InternLM is written as Llama."""
    text, vision = model.text, model.vision
    is_llama = text.family.startswith("internlm")
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "tie_word_embeddings": text.is_tied,
        "text_config": {
            "model_type": "llama" if is_llama else text.family,
            "architectures": [CLASSES[text.family]],
            "hidden_size": text.hidden_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "intermediate_size": text.intermediate_size,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "tie_word_embeddings": text.is_tied,
            **({} if text.has_qkv_bias else {"head_dim": text.head_dim, "attention_bias": False}),
            **(
                {
                    "num_experts": text.num_experts,
                    "num_experts_per_tok": text.num_experts_per_tok,
                    "moe_intermediate_size": text.moe_intermediate_size,
                }
                if text.num_experts
                else {}
            ),
        },
        "vision_config": {
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "intermediate_size": vision.intermediate_size,
            "image_size": [vision.image_size, vision.image_size],
            "patch_size": [vision.patch_size, vision.patch_size],
            "attention_bias": vision.has_qkv_bias,
            "use_qk_norm": vision.has_qk_norm,
            "norm_type": vision.norm_type,
        },
    }


def authors_config(model: CheckpointConfig) -> dict[str, Any]:
    """The config.json of the authors' layout, as far as it is read."""
    hf = hf_config(model)
    vision = hf["vision_config"] | {
        "image_size": model.vision.image_size,
        "patch_size": model.vision.patch_size,
        "qkv_bias": model.vision.has_qkv_bias,
        "qk_normalization": model.vision.has_qk_norm,
    }
    del vision["attention_bias"], vision["use_qk_norm"]
    return {
        "architectures": ["InternVLChatModel"],
        "force_image_size": model.vision.image_size,
        "llm_config": hf["text_config"] | {"model_type": model.text.family},
        "vision_config": vision,
    }


@pytest.mark.parametrize("name", MODELS)
def test_counts_equal_the_tensors(name: str) -> None:
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = hf_config(MODELS[name])
    del config["architectures"]
    with torch.device("meta"):
        built = InternVLForConditionalGeneration(InternVLConfig(**config))
    assert num_parameters(MODELS[name]) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_counts_equal_the_published_totals(name: str, billions: float) -> None:
    digits = len(str(billions).split(".")[1])
    assert round(num_parameters(MODELS[name]) / 1e9, digits) == billions


@pytest.mark.parametrize("name", MODELS)
def test_both_layouts_say_the_same(name: str) -> None:
    model = MODELS[name]
    hf, authors = (parse_config(c, name) for c in (hf_config(model), authors_config(model)))
    assert (hf.layout, authors.layout) == ("hf", "authors")
    assert authors == model
    family = model.text.family
    text = hf.text.model_copy(update={"family": family} if hf.text.family == "llama" else {})
    assert hf.model_copy(update={"layout": "authors", "text": text}) == model


def test_the_demo_model_is_counted_right() -> None:
    from safetensors import safe_open

    config = json.loads((DEMO_MODEL / "config.json").read_text())
    with safe_open(DEMO_MODEL / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118
    counted = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        counted += size
    assert num_parameters(parse_config(config, "demo")) == counted


@pytest.mark.parametrize(
    "name",
    [
        "OpenGVLab/InternVL3-8B",
        "OpenGVLab/InternVL3-8B-hf",
        "internvl3-8b",
        "8B",
        "/m/InternVL3-8B/",
    ],
)
def test_a_model_is_found_by_name(name: str) -> None:
    assert find_model(name) == MODELS["InternVL3-8B"]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("OpenGVLab/InternVL2_5-8B-MPO-hf", "InternVL2_5-8B"),
        ("2.5-8B", "InternVL2_5-8B"),
        ("OpenGVLab/InternVL3_5-8B-HF", "InternVL3_5-8B"),
        ("OpenGVLab/InternVL3_5-30B-A3B-Instruct", "InternVL3_5-30B-A3B"),
        ("/models/InternVL3.5-4B", "InternVL3_5-4B"),
        ("3.5-241b-a28b", "InternVL3_5-241B-A28B"),
    ],
)
def test_the_rest_of_the_family_is_found_by_name(name: str, model: str) -> None:
    assert find_model(name) == MODELS[model]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("OpenGVLab/InternVL2_5-8B", r"InternVL2_5-8B exists only as Python code .*2_5-8B-MPO-hf,"),
        ("InternVL2_5-8B-AWQ", r"OpenGVLab/InternVL2_5-8B-MPO-hf,"),
        ("InternVL2_5-2B-AWQ", r"OpenGVLab/InternVL2_5-2B-MPO-hf,"),
        ("OpenGVLab/InternVL2_5-26B", "It is not published, in transformers' layout"),
        ("OpenGVLab/InternVL3-9B-AWQ", "OpenGVLab/InternVL3-9B-hf,"),
        ("OpenGVLab/InternVL3_5-8B-Flash", r"how many tokens .* OpenGVLab/InternVL3_5-8B-HF\."),
        ("OpenGVLab/InternVL3_5-GPT-OSS-20B-A4B-Preview-HF", "has the text model GPT-OSS"),
    ],
)
def test_what_cannot_be_served_is_said_with_what_can(name: str, reason: str) -> None:
    assert re.search(reason, why_unserved(name))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_named_as_served_is_not_refused(name: str) -> None:
    for repository in repositories(MODELS[name]):
        assert find_model(repository) is not None
        assert why_unserved(f"OpenGVLab/{repository}") == ""
    assert all(model.name in repositories(MODELS[name]) for model in smaller(MODELS[name]))


def test_awq_is_found_by_name() -> None:
    found = find_model("OpenGVLab/InternVL3-38B-AWQ")
    assert found is not None
    weights = found.quantization
    assert (found.name, weights.bits, weights.group_size) == ("InternVL3-38B-AWQ", 4, 128)
    assert num_parameters(found) == num_parameters(MODELS["InternVL3-38B"])


@pytest.mark.parametrize(
    "name", ["InternVL2_5-1B-AWQ", "internvl2.5-2b-awq", "OpenGVLab/InternVL3_5-8B-AWQ"]
)
def test_weights_that_were_not_published_are_known_by_other_owners(name: str) -> None:
    assert find_model(name) is None
    found = find_model(f"someone/{name.rsplit('/', 1)[-1]}")
    assert found is not None
    assert found.quantization.bits == 4


@pytest.mark.parametrize("name", ["OpenGVLab/InternVL3-3B", "someone/InternVL2-8B", "8", "model"])
def test_other_names_are_not_found(name: str) -> None:
    assert find_model(name) is None


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, (4, 64)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, (4, 128)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, (8, 128)),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
            },
            (4, 32),
        ),
    ],
)
def test_quantization_is_read(quantization: dict[str, Any], expected: tuple[int, int]) -> None:
    config = authors_config(MODELS["InternVL3-2B"])
    config["llm_config"]["quantization_config"] = quantization
    weights = parse_config(config, "x").quantization
    assert (weights.method, weights.bits, weights.group_size) == (
        quantization["quant_method"],
        *expected,
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("vision_config"),
        lambda c: c["llm_config"].pop("hidden_size"),
        lambda c: c["llm_config"].update(num_hidden_layers="many"),
        lambda c: c.update(quantization_config={"quant_method": "bitsandbytes"}),
        lambda c: c.update(quantization_config={"quant_method": "gptq", "bits": 3}),
        lambda c: c.update(
            quantization_config={"quant_method": "awq", "bits": 4, "group_size": 64}
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(damage: Any, tmp_path: Path) -> None:
    config = authors_config(MODELS["InternVL3-2B"])
    damage(config)
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StartupError, match=r"config\.json of my-model"):
        model_at(str(folder))


def test_every_model_of_internvl3_has_a_config_file() -> None:
    folder = Path(__file__).parents[3] / "configs"
    expected = {f"{name.lower()}.toml" for name in MODELS if name.startswith("InternVL3-")}
    assert expected <= {path.name for path in folder.iterdir()}
