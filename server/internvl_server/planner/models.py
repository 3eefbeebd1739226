"""The seven published InternVL3 models, so that a plan is possible before anything is downloaded.

Sizes are those of the checkpoints' config.json files. The text model of the 9B is InternLM3-8B, with the
vocabulary of its base model.
"""

import re

from internvl_server.checkpoint.config import (
    CheckpointConfig,
    ProjectorConfig,
    Quantization,
    TextConfig,
    VisionConfig,
)

__all__ = ["MODELS", "awq", "find_model", "smaller"]

_INTERNVIT_300M = VisionConfig(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
    has_qkv_bias=True,
)  # fmt: skip
_INTERNVIT_6B = VisionConfig(
    hidden_size=3200, num_hidden_layers=45, num_attention_heads=25, intermediate_size=12_800,
    has_qk_norm=True, norm_type="rms_norm",
)  # fmt: skip


def _qwen(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int) -> TextConfig:
    return TextConfig(
        family="qwen2", vocab_size=151_674, hidden_size=hidden, intermediate_size=mlp,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=32_768, has_qkv_bias=True,
    )  # fmt: skip


_INTERNLM3_8B = TextConfig(
    family="internlm3", vocab_size=128_512, hidden_size=4096, intermediate_size=10_240,
    num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=2,
    max_position_embeddings=32_768,
)  # fmt: skip


def _model(name: str, vision: VisionConfig, text: TextConfig) -> CheckpointConfig:
    return CheckpointConfig(
        name=name, layout="authors", vision=vision, text=text, projector=ProjectorConfig(),
        quantization=Quantization(), tile_px=vision.image_size,
    )  # fmt: skip


MODELS = {
    model.name: model
    for model in (
        _model("InternVL3-1B", _INTERNVIT_300M, _qwen(896, 24, 14, 2, 4864)),
        _model("InternVL3-2B", _INTERNVIT_300M, _qwen(1536, 28, 12, 2, 8960)),
        _model("InternVL3-8B", _INTERNVIT_300M, _qwen(3584, 28, 28, 4, 18_944)),
        _model("InternVL3-9B", _INTERNVIT_300M, _INTERNLM3_8B),
        _model("InternVL3-14B", _INTERNVIT_300M, _qwen(5120, 48, 40, 8, 13_824)),
        _model("InternVL3-38B", _INTERNVIT_6B, _qwen(5120, 64, 40, 8, 27_648)),
        _model("InternVL3-78B", _INTERNVIT_6B, _qwen(8192, 80, 64, 8, 29_568)),
    )
}

# OpenGVLab/InternVL3-2B, its transformers layout -hf, the stages -Pretrained and -Instruct, 4-bit -AWQ.
_NAME = re.compile(
    r"(?:.*/)?(?P<size>InternVL3-\d+B)(?:-Instruct|-Pretrained)?(?P<kind>-hf|-AWQ)?/?"
)


def find_model(name: str) -> CheckpointConfig | None:
    """The published model that a folder's or hub repository's name stands for; None for any other name.

    Args:
        name: A bare size such as `2B` or `2B-AWQ` is accepted too, in any case.
    """
    match = re.fullmatch(_NAME.pattern, _long(name), re.IGNORECASE)
    if match is None:
        return None
    model = MODELS.get("InternVL3-" + match["size"].upper().removeprefix("INTERNVL3-"))
    if model is None or (match["kind"] or "").upper() != "-AWQ":
        return model
    return awq(model)


def awq(model: CheckpointConfig) -> CheckpointConfig:
    """The same model with 4-bit weights, as published."""
    quantization = Quantization(method="awq", bits=4, group_size=128)
    return model.model_copy(update={"name": f"{model.name}-AWQ", "quantization": quantization})


def smaller(model: CheckpointConfig) -> list[CheckpointConfig]:
    """The published model with the same parameters in fewer bits, if there is one that can be served.

    The 4-bit checkpoint of the 9B has the authors' layout, in which its tokenizer is code.
    """
    is_code = model.text.family == _INTERNLM3_8B.family
    return [] if is_code or model.quantization.method else [awq(model)]


def _long(name: str) -> str:
    return f"InternVL3-{name}" if re.match(r"\d+B\b", name, re.IGNORECASE) else name
