"""From a checkpoint's config.json, in either layout, to the sizes of the model."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.errors import StartupError

__all__ = ["DecoderConfig", "ModelConfig", "VisionConfig", "parse_model_config"]

# What the authors' `InternVisionConfig` assumes where config.json is silent, when it is not what
# transformers' `InternVLVisionConfig` assumes.
_AUTHORS_VISION_DEFAULTS: Mapping[str, Any] = {
    "norm_type": "rms_norm",
    "qkv_bias": False,
    "qk_normalization": True,
}


def _square_side(value: object) -> object:
    """The side of a [height, width] of a square; anything else as it is, for pydantic to judge."""
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        return value[0]
    return value


_SidePx = Annotated[int, BeforeValidator(_square_side), Field(gt=0)]
_Size = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True)


class VisionConfig(_Section):
    """Sizes of the InternViT; field names follow transformers', aliases the authors'."""

    hidden_size: _Size = 1024
    num_hidden_layers: _Size = 24
    num_attention_heads: _Size = 16
    intermediate_size: _Size = 4096
    image_size: _SidePx = 448
    patch_size: _SidePx = 14
    num_channels: Literal[3] = 3
    hidden_act: Literal["gelu"] = "gelu"
    norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm"
    layer_norm_eps: float = 1e-6
    has_qkv_bias: bool = Field(
        default=False, validation_alias=AliasChoices("qkv_bias", "attention_bias")
    )
    has_qk_norm: bool = Field(
        default=False, validation_alias=AliasChoices("qk_normalization", "use_qk_norm")
    )
    use_absolute_position_embeddings: Literal[True] = True
    use_mean_pooling: Literal[True] = True

    @property
    def num_patches(self) -> int:
        """Patches of one tile, without the class token."""
        return int((self.image_size // self.patch_size) ** 2)


class DecoderConfig(_Section):
    """Sizes of the Qwen2 or Qwen2.5 text model; the defaults are transformers'."""

    vocab_size: _Size = 151_936
    hidden_size: _Size = 4096
    intermediate_size: _Size = 22_016
    num_hidden_layers: _Size = 32
    num_attention_heads: _Size = 32
    num_key_value_heads: _Size = 32
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: _Size = 32_768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    use_sliding_window: Literal[False] = False

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads


class ModelConfig(_Section):
    """The whole model; `num_vision_layers` counts the vision layers up to the selected one."""

    vision: VisionConfig
    decoder: DecoderConfig
    num_vision_layers: int
    is_tied: bool


def parse_model_config(checkpoint: Checkpoint, *, max_model_len: int) -> ModelConfig:
    """Read what the model is built from.

    Raises:
        StartupError: The checkpoint is of a kind this engine does not compute, or its config is
        wrong.
    """
    config = checkpoint.config
    text = dict(config.get("llm_config" if checkpoint.layout == "authors" else "text_config") or {})
    _check_text_model(text)
    _check_projector(config)
    _check_rope(text, max_model_len)
    text.setdefault("rope_theta", _rope(text).get("rope_theta", 10_000.0))
    vision = dict(config.get("vision_config") or {})
    if checkpoint.layout == "authors":
        vision = {**_AUTHORS_VISION_DEFAULTS, **vision}
    try:
        parsed = ModelConfig(
            vision=VisionConfig.model_validate(vision),
            decoder=DecoderConfig.model_validate(text),
            num_vision_layers=_num_vision_layers(config, vision),
            is_tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        )
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"config.json: {err.title}.{where} = {first['input']!r}: {first['msg']}."
        raise StartupError(f"{message} The CPU engine runs InternViT with Qwen2.") from err
    if parsed.vision.image_size % (2 * parsed.vision.patch_size):
        raise StartupError("config.json: a tile is not an even number of patches wide.")
    if checkpoint.tile_px != parsed.vision.image_size:
        raise StartupError(
            f"config.json: tiles of {checkpoint.tile_px} px do not match vision_config.image_size "
            f"{parsed.vision.image_size}; the CPU engine does not interpolate position embeddings."
        )
    return parsed


def _check_text_model(text: Mapping[str, Any]) -> None:
    names = [text.get("model_type", "qwen2"), *(text.get("architectures") or [])]
    if not all(name in {"qwen2", "Qwen2ForCausalLM", "Qwen2Model"} for name in names):
        raise StartupError(
            f"The checkpoint's text model is {names[-1]!r}; the CPU engine runs Qwen2 and Qwen2.5 "
            "(InternVL3-1B, -2B, -8B, -14B, -38B, -78B)."
        )


def _check_projector(config: Mapping[str, Any]) -> None:
    supported = {
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "projector_hidden_act": "gelu",
        "vision_feature_select_strategy": "default",
    }
    for key, value in supported.items():
        if config.get(key, value) != value:
            raise StartupError(
                f"config.json: {key} is {config[key]!r}; the CPU engine supports {value!r}."
            )


def _rope(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope section: `rope_parameters` since transformers 5, `rope_scaling` before it."""
    return text.get("rope_parameters") or text.get("rope_scaling") or {}


def _check_rope(text: Mapping[str, Any], max_model_len: int) -> None:
    """Accept no scaling, and `dynamic`, which changes nothing up to the original length."""
    rope = _rope(text)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in {"default", "dynamic"}:
        raise StartupError(
            f"config.json: rope scaling {kind!r} is not supported by the CPU engine; "
            "supported are none, 'default' and 'dynamic'."
        )
    trained_len = int(text.get("max_position_embeddings", 32_768))
    if max_model_len > trained_len:
        raise StartupError(
            f"model.max_model_len is {max_model_len}; the CPU engine goes no further than the "
            f"{trained_len} tokens of max_position_embeddings."
        )


def _num_vision_layers(config: Mapping[str, Any], vision: Mapping[str, Any]) -> int:
    """Layers up to the one whose output is used; -1 is the last, 0 would be the embeddings."""
    selected = config.get("select_layer", config.get("vision_feature_layer", -1))
    num_layers = int(vision.get("num_hidden_layers", 24))
    index = selected + num_layers + 1 if isinstance(selected, int) and selected < 0 else selected
    if not isinstance(index, int) or not 0 < index <= num_layers:
        raise StartupError(
            f"config.json: the vision layer {selected!r} cannot be selected from {num_layers}."
        )
    return index
