"""The sizes of a checkpoint's two networks, read from its config.json, and its exact parameter count.

Knows both layouts, and text models of the Qwen2 and InternLM families. Counts equal the tensors
transformers builds from the same config (tests/unit/plan/test_plan_parameters.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from internvl_server.errors import StartupError

__all__ = ["Architecture", "TextSizes", "VisionSizes", "read_architecture"]

_SHUFFLE = 2  # the projector joins 2x2 patches into one image token
_QUANTIZED_BITS = 4


@dataclass(frozen=True, slots=True)
class VisionSizes:
    """InternViT. `has_bias` is of query, key and value; `is_rms` drops the norms' biases."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    tile_px: int
    patch_px: int
    has_bias: bool
    has_qk_norm: bool
    is_rms: bool

    @property
    def num_positions(self) -> int:
        """Patches of a tile, and the class token."""
        return (self.tile_px // self.patch_px) ** 2 + 1

    @property
    def norm_parameters(self) -> int:
        """Of one norm: weights, and biases unless it is an RMS norm."""
        return self.hidden if self.is_rms else 2 * self.hidden

    @property
    def attention_parameters(self) -> int:
        """Of one layer: query, key, value, output projection and their norms."""
        biases = (3 if self.has_bias else 0) + 1 + (2 if self.has_qk_norm else 0)
        return 4 * self.hidden**2 + biases * self.hidden

    @property
    def mlp_parameters(self) -> int:
        """Of one layer, without the second bias, which no GPU shares with another."""
        return 2 * self.hidden * self.mlp + self.mlp

    @property
    def replicated_parameters(self) -> int:
        """What every GPU holds whole: embeddings, norms, layer scales, the MLP's second bias."""
        embeddings = self.hidden * (3 * self.patch_px**2 + 1 + 1 + self.num_positions)
        return embeddings + self.layers * (2 * self.norm_parameters + 3 * self.hidden)

    @property
    def num_parameters(self) -> int:
        """Of the whole vision tower."""
        return self.replicated_parameters + self.layers * (
            self.attention_parameters + self.mlp_parameters
        )


@dataclass(frozen=True, slots=True)
class TextSizes:
    """The language model. `has_bias` is of query, key and value; `context` is in tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    context: int
    has_bias: bool
    is_tied: bool

    @property
    def norm_parameters(self) -> int:
        """Of all norms, which every GPU holds whole."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def linear_parameters(self) -> int:
        """Of the matrices of one layer: what AWQ quantizes."""
        attention = 2 * self.heads + 2 * self.kv_heads
        return self.hidden * (attention * self.head_dim + 3 * self.mlp)

    @property
    def bias_parameters(self) -> int:
        """Of one layer."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim if self.has_bias else 0

    @property
    def num_parameters(self) -> int:
        """Of the whole language model, tied tables once."""
        tables = (1 if self.is_tied else 2) * self.vocab * self.hidden
        layers = self.layers * (self.linear_parameters + self.bias_parameters)
        return tables + layers + self.norm_parameters


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole InternVL model.

    Quantized weights are the language model's matrices: `weight_bits` each, and a scale and a zero for
    every `weight_group` inputs.
    """

    name: str
    vision: VisionSizes
    text: TextSizes
    weight_bits: int = 16
    weight_group: int = 0

    @property
    def projector_inputs(self) -> int:
        """Width of what the projector reads: four patches side by side."""
        return self.vision.hidden * _SHUFFLE**2

    @property
    def projector_parameters(self) -> int:
        """A layer norm and two linear layers with biases."""
        hidden = self.text.hidden
        return 2 * self.projector_inputs + hidden * (self.projector_inputs + hidden + 2)

    @property
    def num_parameters(self) -> int:
        """Every weight once, quantized or not, tied ones not twice."""
        return self.vision.num_parameters + self.projector_parameters + self.text.num_parameters


def read_architecture(name: str, config: Mapping[str, Any]) -> Architecture:
    """Read the sizes from a whole config.json of either layout.

    Args:
        name: For messages and tables.
        config: Its content.

    Raises:
        StartupError: A size is missing, or the weights are quantized in a way that is not planned for.
    """
    text = config.get("llm_config") or config.get("text_config")
    vision = config.get("vision_config")
    if not isinstance(text, Mapping) or not isinstance(vision, Mapping):
        raise StartupError(f"config.json of {name} describes no InternVL model.")
    try:
        return Architecture(
            name, _vision(vision, config), _text(text, config), *_quantization(config, text)
        )
    except (KeyError, TypeError, ValueError) as err:
        raise StartupError(f"config.json of {name} lacks a usable value: {err}.") from err


def _vision(vision: Mapping[str, Any], config: Mapping[str, Any]) -> VisionSizes:
    return VisionSizes(
        hidden=int(vision["hidden_size"]),
        layers=int(vision["num_hidden_layers"]),
        heads=int(vision["num_attention_heads"]),
        mlp=int(vision["intermediate_size"]),
        tile_px=_side(config.get("force_image_size") or vision.get("image_size", 448)),
        patch_px=_side(vision.get("patch_size", 14)),
        has_bias=bool(vision.get("qkv_bias", vision.get("attention_bias", False))),
        has_qk_norm=bool(vision.get("qk_normalization", vision.get("use_qk_norm", False))),
        is_rms=vision.get("norm_type") == "rms_norm",
    )


def _text(text: Mapping[str, Any], config: Mapping[str, Any]) -> TextSizes:
    heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
    return TextSizes(
        hidden=hidden,
        layers=int(text["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        mlp=int(text["intermediate_size"]),
        vocab=int(text["vocab_size"]),
        context=int(text.get("max_position_embeddings", 8192)),
        has_bias=_has_text_bias(text),
        is_tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
    )


def _has_text_bias(text: Mapping[str, Any]) -> bool:
    """Qwen2 always has biases, its config does not say so; the InternLM family says it."""
    if str(text.get("model_type", "")).startswith("qwen2"):
        return True
    if any("Qwen2" in str(name) for name in text.get("architectures") or ()):
        return True
    return bool(text.get("qkv_bias", text.get("attention_bias", text.get("bias", False))))


def _quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[int, int]:
    """Bits and group size of the weights."""
    found = config.get("quantization_config") or text.get("quantization_config")
    if not found:
        return 16, 0
    method = found.get("quant_method")
    if method == "fp8":
        return 8, int((found.get("weight_block_size") or [128])[0])
    groups: Mapping[str, Any] = found.get("config_groups") or {"": {}}  # of compressed-tensors
    sizes = {**next(iter(groups.values())).get("weights", {}), **found}
    bits = int(sizes.get("bits") or sizes.get("num_bits") or 4)
    if method not in ("awq", "gptq", "compressed-tensors") or bits != _QUANTIZED_BITS:
        raise ValueError(f"quantization {method!r} with {bits} bits is not planned for")
    return bits, int(sizes.get("group_size") or 128)


def _side(value: int | list[int]) -> int:
    """A number in the authors' layout, a [height, width] pair in the other."""
    return int(value[0] if isinstance(value, list | tuple) else value)
