"""The published models of InternVL2.5, 3 and 3.5, so that a plan is possible before anything is downloaded.

Names are those of the hub. Sizes are those of the text and vision models that each is built of, with the
vocabulary of its config.json; the 9B's is that of its base model. Versions that cannot be served at all, with
GPT-OSS or named -Flash, are not here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from internvl_server.checkpoint.config import (
    CheckpointConfig,
    ProjectorConfig,
    Quantization,
    TextConfig,
    VisionConfig,
)

__all__ = [
    "MODELS",
    "awq",
    "find_model",
    "find_repository",
    "licence",
    "repositories",
    "smaller",
    "why_unserved",
]

_INTERNVIT_300M = VisionConfig(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
    has_qkv_bias=True,
)  # fmt: skip
_INTERNVIT_6B = VisionConfig(
    hidden_size=3200, num_hidden_layers=45, num_attention_heads=25, intermediate_size=12_800,
    has_qk_norm=True, norm_type="rms_norm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Width, layers, query heads, key-value heads and width of the MLP or of an expert."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int


def _qwen2(sizes: _Sizes) -> TextConfig:
    return _text(
        "qwen2", sizes, vocab_size=151_674, max_position_embeddings=32_768, has_qkv_bias=True
    )


def _qwen3(sizes: _Sizes, *, dense_mlp: int = 0) -> TextConfig:
    """With experts if the MLP, which then no layer has, is given apart from them."""
    experts = {
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": sizes.mlp,
        "intermediate_size": dense_mlp,
    }  # fmt: skip
    return _text(
        "qwen3_moe" if dense_mlp else "qwen3", sizes, vocab_size=151_936, head_dim=128,
        max_position_embeddings=40_960, has_qk_norm=True, **(experts if dense_mlp else {}),
    )  # fmt: skip


def _internlm2(sizes: _Sizes) -> TextConfig:
    return _text("internlm2", sizes, vocab_size=92_553, max_position_embeddings=32_768)


def _text(family: str, sizes: _Sizes, **fields: int) -> TextConfig:
    return TextConfig.model_validate(
        {
            "family": family,
            "hidden_size": sizes.hidden,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "intermediate_size": sizes.mlp,
            **fields,
        }
    )


_INTERNLM3_8B = _text(
    "internlm3", _Sizes(4096, 48, 32, 2, 10_240), vocab_size=128_512, max_position_embeddings=32_768
)
_QWEN2_05B = _qwen2(_Sizes(896, 24, 14, 2, 4864))
_QWEN2_32B = _qwen2(_Sizes(5120, 64, 40, 8, 27_648))
_QWEN2_72B = _qwen2(_Sizes(8192, 80, 64, 8, 29_568))


def _model(name: str, vision: VisionConfig, text: TextConfig) -> CheckpointConfig:
    return CheckpointConfig(
        name=name, layout="authors", vision=vision, text=text, projector=ProjectorConfig(),
        quantization=Quantization(), tile_px=vision.image_size,
    )  # fmt: skip


MODELS = {
    model.name: model
    for model in (
        _model("InternVL2_5-1B", _INTERNVIT_300M, _QWEN2_05B),
        _model("InternVL2_5-2B", _INTERNVIT_300M, _internlm2(_Sizes(2048, 24, 16, 8, 8192))),
        _model("InternVL2_5-4B", _INTERNVIT_300M, _qwen2(_Sizes(2048, 36, 16, 2, 11_008))),
        _model("InternVL2_5-8B", _INTERNVIT_300M, _internlm2(_Sizes(4096, 32, 32, 8, 14_336))),
        _model("InternVL2_5-26B", _INTERNVIT_6B, _internlm2(_Sizes(6144, 48, 48, 8, 16_384))),
        _model("InternVL2_5-38B", _INTERNVIT_6B, _QWEN2_32B),
        _model("InternVL2_5-78B", _INTERNVIT_6B, _QWEN2_72B),
        _model("InternVL3-1B", _INTERNVIT_300M, _QWEN2_05B),
        _model("InternVL3-2B", _INTERNVIT_300M, _qwen2(_Sizes(1536, 28, 12, 2, 8960))),
        _model("InternVL3-8B", _INTERNVIT_300M, _qwen2(_Sizes(3584, 28, 28, 4, 18_944))),
        _model("InternVL3-9B", _INTERNVIT_300M, _INTERNLM3_8B),
        _model("InternVL3-14B", _INTERNVIT_300M, _qwen2(_Sizes(5120, 48, 40, 8, 13_824))),
        _model("InternVL3-38B", _INTERNVIT_6B, _QWEN2_32B),
        _model("InternVL3-78B", _INTERNVIT_6B, _QWEN2_72B),
        _model("InternVL3_5-1B", _INTERNVIT_300M, _qwen3(_Sizes(1024, 28, 16, 8, 3072))),
        _model("InternVL3_5-2B", _INTERNVIT_300M, _qwen3(_Sizes(2048, 28, 16, 8, 6144))),
        _model("InternVL3_5-4B", _INTERNVIT_300M, _qwen3(_Sizes(2560, 36, 32, 8, 9728))),
        _model("InternVL3_5-8B", _INTERNVIT_300M, _qwen3(_Sizes(4096, 36, 32, 8, 12_288))),
        _model("InternVL3_5-14B", _INTERNVIT_300M, _qwen3(_Sizes(5120, 40, 40, 8, 17_408))),
        _model("InternVL3_5-38B", _INTERNVIT_6B, _qwen3(_Sizes(5120, 64, 64, 8, 25_600))),
        _model(
            "InternVL3_5-30B-A3B",
            _INTERNVIT_300M,
            _qwen3(_Sizes(2048, 48, 32, 4, 768), dense_mlp=6144),
        ),
        _model(
            "InternVL3_5-241B-A28B",
            _INTERNVIT_6B,
            _qwen3(_Sizes(4096, 94, 64, 4, 1536), dense_mlp=12_288),
        ),
    )
}

# OpenGVLab/InternVL3-2B, its transformers layout -hf, stages of training such as -Instruct, 4-bit -AWQ.
_NAME = re.compile(
    r"(?:.*/)?(?P<model>InternVL(?:2_5|3|3_5)-\d+B(?:-A\d+B)?)"
    r"(?:-Instruct|-Pretrained|-MPO)?(?:-hf|-AWQ)?/?",
    re.IGNORECASE,
)
_BY_NAME = {name.lower(): model for name, model in MODELS.items()}
_CODE_FAMILIES = (
    "internlm2",
    "internlm3",
)  # their tokenizers are code, except in transformers' layout
_WITHOUT_AWQ = ("InternVL2_5-1B", "InternVL2_5-2B")  # and all of 3.5
_APACHE_TEXT = ("InternVL2_5-1B", "InternVL2_5-38B")  # Qwen2.5 under Apache-2.0
_HF_VERSIONS: Mapping[str, str] = {
    "InternVL2_5-2B": "InternVL2_5-2B-MPO-hf",
    "InternVL2_5-8B": "InternVL2_5-8B-MPO-hf",
}


def find_model(name: str) -> CheckpointConfig | None:
    """The published model that a folder's or hub repository's name stands for; None for any other name.

    Args:
        name: InternVL3's may be a bare size such as `2B` or `2B-AWQ`, and `3.5-8B` stands for InternVL3_5-8B.
            Case does not matter. 4-bit weights that OpenGVLab has not published are known by other owners.
    """
    model = _whole_model(name)
    if model is None or not name.rstrip("/").upper().endswith("-AWQ"):
        return model
    is_others = "/" in name and not name.lower().startswith("opengvlab/")
    return awq(model) if is_others or _has_awq(model) else None


def _whole_model(name: str) -> CheckpointConfig | None:
    """The model with 16-bit weights of which a name is a version, published or not."""
    match = _NAME.fullmatch(_long(name))
    return _BY_NAME.get(match["model"].lower()) if match else None


def _has_awq(model: CheckpointConfig) -> bool:
    return model.name not in _WITHOUT_AWQ and not model.name.startswith("InternVL3_5")


def awq(model: CheckpointConfig) -> CheckpointConfig:
    """The same model with 4-bit weights, as published."""
    quantization = Quantization(method="awq", bits=4, group_size=128)
    return model.model_copy(update={"name": f"{model.name}-AWQ", "quantization": quantization})


def smaller(model: CheckpointConfig) -> list[CheckpointConfig]:
    """The published model with the same parameters in fewer bits, if there is one that can be served."""
    small = awq(model)
    return [small] if small.name in repositories(model) else []


def repositories(model: CheckpointConfig) -> list[str]:
    """The hub repositories of OpenGVLab with a model of `MODELS` that can be served, the usual one first.

    The layout of transformers comes first, that of the authors follows, then 4-bit weights.
    """
    name, is_code = model.name, model.text.family in _CODE_FAMILIES
    hf_version = _HF_VERSIONS.get(name, "")
    if name.startswith("InternVL3"):
        hf_version = f"{name}-{'HF' if name.startswith('InternVL3_5') else 'hf'}"
    others = [] if is_code else [name, f"{name}-AWQ"] if _has_awq(model) else [name]
    return [hf_version, *others] if hf_version else others


def find_repository(name: str) -> str | None:
    """The hub repository, without owner, that a name without owner stands for; None if it is not known.

    Args:
        name: As for `find_model`. A model without -hf or -AWQ means the first of `repositories`.
    """
    model = find_model(name)
    if model is None or "/" in name:
        return None
    whole = MODELS[model.name.removesuffix("-AWQ")]
    published, wanted = repositories(whole), _long(name).lower()
    if wanted == whole.name.lower():
        return next(iter(published), None)
    return next((one for one in published if one.lower() == wanted), None)


def licence(model: CheckpointConfig) -> str:
    """The licences of a model of `MODELS`, and of its text model if that has another one.

    Source: the model cards, and those of the text models that InternVL2.5 is built of.
    """
    if model.name.startswith("InternVL3_5"):
        return "Apache-2.0"
    is_qwen = model.text.family == "qwen2" and model.name not in _APACHE_TEXT
    return f"MIT, {'Qwen' if is_qwen else 'Apache-2.0'}"


def why_unserved(name: str) -> str:
    """Why a published checkpoint cannot be served, and what to serve instead; empty for any other name."""
    short = name.rstrip("/").rsplit("/", 1)[-1]
    if re.fullmatch(r"InternVL3_5-.*-Flash(-hf)?", short, re.IGNORECASE):
        other = re.sub(r"-Flash.*", "-HF", short, flags=re.IGNORECASE)
        return (
            f"{short} decides for each tile how many tokens it becomes, which no engine of this server does. "
            f"Serve OpenGVLab/{other}."
        )
    if re.fullmatch(r"InternVL3_5-GPT-OSS-.*", short, re.IGNORECASE):
        return (
            f"{short} has the text model GPT-OSS, whose prompts this server does not write. Serve "
            "OpenGVLab/InternVL3_5-30B-A3B-HF."
        )
    model = _whole_model(short)
    if model is None or model.text.family not in _CODE_FAMILIES or short.lower().endswith("-hf"):
        return ""
    instead = repositories(MODELS[model.name.removesuffix("-AWQ")])
    other = f"Serve OpenGVLab/{instead[0]}" if instead else "It is not published"
    return (
        f"The tokenizer of {short} exists only as Python code (trust_remote_code), which this server never "
        f"runs. {other}, in transformers' layout."
    )


def _long(name: str) -> str:
    name = re.sub(r"(?i)^((?:.*/)?InternVL)?([23])\.5-", r"\1\2_5-", name)
    return f"InternVL{'' if '_5-' in name else '3-'}{name}" if re.match(r"\d", name) else name
