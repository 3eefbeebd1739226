"""Which checkpoints the CPU engine computes: InternViT with Qwen2, Qwen2.5 or Qwen3."""

from collections.abc import Iterator

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.errors import StartupError
from internvl_server.planner.support import CPU_TEXT_MODELS

__all__ = ["check_supported", "num_encoded_layers"]


def check_supported(config: CheckpointConfig, *, max_model_len: int) -> None:
    """Refuse a checkpoint that would be computed differently than its config says.

    Raises:
        StartupError: Names the value, and the values that are supported.
    """
    vision, text = config.vision, config.text
    if text.family not in CPU_TEXT_MODELS:
        raise StartupError(
            f"The checkpoint's text model is {text.family!r}; the CPU engine runs Qwen2, Qwen2.5 and Qwen3 "
            "without experts (all InternVL3 but -9B, and InternVL3.5 up to -38B)."
        )
    for name, value, supported in _choices(config):
        if value not in supported:
            raise StartupError(
                f"config.json: {name} is {value!r}; the CPU engine supports "
                f"{' and '.join(map(repr, supported))}."
            )
    if vision.image_size % (2 * vision.patch_size):
        raise StartupError("config.json: a tile is not an even number of patches wide.")
    if config.tile_px != vision.image_size:
        raise StartupError(
            f"config.json: tiles of {config.tile_px} px do not match vision_config.image_size "
            f"{vision.image_size}; the CPU engine does not interpolate position embeddings."
        )
    if max_model_len > text.max_position_embeddings:
        raise StartupError(
            f"model.max_model_len is {max_model_len}; the CPU engine supports at most the "
            f"{text.max_position_embeddings} tokens of max_position_embeddings."
        )
    if not 0 < num_encoded_layers(config) <= vision.num_hidden_layers:
        raise StartupError(
            f"config.json: the vision layer {config.projector.select_layer} cannot be selected from "
            f"{vision.num_hidden_layers}."
        )


def num_encoded_layers(config: CheckpointConfig) -> int:
    """Vision layers up to the one whose output is projected."""
    selected = config.projector.select_layer
    return selected if selected >= 0 else selected + config.vision.num_hidden_layers + 1


def _choices(config: CheckpointConfig) -> Iterator[tuple[str, object, tuple[object, ...]]]:
    """Name, value and supported values of each config entry that selects between formulas."""
    vision, text, projector = config.vision, config.text, config.projector
    yield "quantization", config.quantization.method, (None,)
    yield "vision_config.num_channels", vision.num_channels, (3,)
    yield "vision_config.hidden_act", vision.hidden_act, ("gelu",)
    yield "vision_config.norm_type", vision.norm_type, ("layer_norm", "rms_norm")
    yield (
        "vision_config.use_absolute_position_embeddings",
        vision.use_absolute_position_embeddings,
        (True,),
    )
    yield "vision_config.use_mean_pooling", vision.use_mean_pooling, (True,)
    yield "hidden_act of the text model", text.hidden_act, ("silu",)
    yield "attention_bias", text.has_qkv_bias, (text.family == "qwen2",)
    yield "use_sliding_window", text.use_sliding_window, (False,)
    # "dynamic" changes nothing up to the trained length.
    yield "the type of rope_scaling", text.rope_type, ("default", "dynamic")
    yield "downsample_ratio", projector.downsample_ratio, (0.5,)
    yield "ps_version", projector.ps_version, ("v2",)
    yield "projector_hidden_act", projector.projector_hidden_act, ("gelu",)
    yield "vision_feature_select_strategy", projector.vision_feature_select_strategy, ("default",)
