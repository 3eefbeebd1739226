"""Parameter counts, against the tensors transformers makes of the same sizes and the published totals."""

import json
from pathlib import Path
from typing import Any

import pytest
from internvl_server.checkpoint.config import CheckpointConfig, parse_config
from internvl_server.errors import StartupError
from internvl_server.planner.check import model_at
from internvl_server.planner.models import MODELS, find_model
from internvl_server.planner.parameters import num_parameters
from internvl_server.settings import DEMO_MODEL

# In billions: as their authors' model cards give them, rounded as there.
PUBLISHED = {"1B": 0.94, "2B": 2.09, "8B": 7.94, "9B": 9.14, "14B": 15.1, "38B": 38.4, "78B": 78.4}


def hf_config(model: CheckpointConfig) -> dict[str, Any]:
    """The config.json of transformers' layout."""
    text, vision = model.text, model.vision
    is_qwen = text.has_qkv_bias
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "tie_word_embeddings": text.is_tied,
        "text_config": {
            "model_type": "qwen2" if is_qwen else "internlm3",
            "hidden_size": text.hidden_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "intermediate_size": text.intermediate_size,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "tie_word_embeddings": text.is_tied,
            **({} if is_qwen else {"head_dim": text.head_dim, "attention_bias": False}),
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
    family = "Qwen2ForCausalLM" if model.text.has_qkv_bias else "InternLM3ForCausalLM"
    return {
        "architectures": ["InternVLChatModel"],
        "force_image_size": model.vision.image_size,
        "llm_config": hf["text_config"] | {"architectures": [family]},
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


@pytest.mark.parametrize(("size", "billions"), PUBLISHED.items())
def test_counts_equal_the_published_totals(size: str, billions: float) -> None:
    digits = 2 if billions < 10 else 1
    assert round(num_parameters(MODELS[f"InternVL3-{size}"]) / 1e9, digits) == billions


@pytest.mark.parametrize("name", MODELS)
def test_both_layouts_say_the_same(name: str) -> None:
    model = MODELS[name]
    hf, authors = (parse_config(c, name) for c in (hf_config(model), authors_config(model)))
    assert (hf.layout, authors.layout) == ("hf", "authors")
    assert authors == model
    assert hf.model_copy(update={"layout": "authors"}) == model


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


def test_awq_is_found_by_name() -> None:
    found = find_model("OpenGVLab/InternVL3-38B-AWQ")
    assert found is not None
    weights = found.quantization
    assert (found.name, weights.bits, weights.group_size) == ("InternVL3-38B-AWQ", 4, 128)
    assert num_parameters(found) == num_parameters(MODELS["InternVL3-38B"])


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


def test_every_model_has_a_config_file() -> None:
    folder = Path(__file__).parents[3] / "configs"
    expected = {f"{name.lower()}.toml" for name in MODELS}
    assert expected <= {path.name for path in folder.iterdir()}
