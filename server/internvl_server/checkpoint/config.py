"""The only interpretation of a checkpoint's config.json: both layouts become the same typed sections.

Layouts are the authors' (`InternVLChatModel`) and that of transformers (`InternVLForConditionalGeneration`,
repositories named `-hf`). Field names follow transformers. A value that the file omits is what the layout's
own library assumes; a null counts as omitted.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from internvl_server.checkpoint.text_section import text_fields
from internvl_server.errors import StartupError

__all__ = [
    "CheckpointConfig",
    "Layout",
    "ProjectorConfig",
    "Quantization",
    "TextConfig",
    "VisionConfig",
    "parse_config",
]

Layout: TypeAlias = Literal["authors", "hf"]

_LAYOUTS: Mapping[str, Layout] = {
    "InternVLChatModel": "authors",
    "InternVLForConditionalGeneration": "hf",
}
# Where the authors' `InternVisionConfig` assumes something else than transformers' `InternVLVisionConfig`.
_AUTHORS_VISION_DEFAULTS: Mapping[str, Any] = {
    "norm_type": "rms_norm",
    "qkv_bias": False,
    "qk_normalization": True,
}


def _square_side(value: object) -> object:
    """The side of a square given as [height, width]; pydantic judges any other value."""
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        return value[0]
    return value


_SidePx = Annotated[PositiveInt, BeforeValidator(_square_side)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, validate_default=True
    )


class VisionConfig(_Section):
    """InternViT. `has_qkv_bias` concerns query, key and value; the output projection always has a bias."""

    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    image_size: _SidePx = 448
    patch_size: _SidePx = 14
    num_channels: PositiveInt = 3
    hidden_act: str = "gelu"
    norm_type: str = "layer_norm"
    layer_norm_eps: float = 1e-6
    has_qkv_bias: bool = Field(
        default=False, validation_alias=AliasChoices("qkv_bias", "attention_bias")
    )
    has_qk_norm: bool = Field(
        default=False, validation_alias=AliasChoices("qk_normalization", "use_qk_norm")
    )
    use_absolute_position_embeddings: bool = True
    use_mean_pooling: bool = True

    @property
    def num_patches(self) -> int:
        """Patches of one tile, without the class token."""
        return int((self.image_size // self.patch_size) ** 2)


class TextConfig(_Section):
    """The language model.

    `family` is transformers' model type, such as "qwen2". `max_position_embeddings` is the context in
    tokens that the model was trained for. `rope_type` is "default" without scaling, and `rope_factor` 1.
    `has_qk_norm` is true if every head of query and key is normalised. In a mixture of experts each layer
    has `num_experts` MLPs of width `moe_intermediate_size`, of which a token passes `num_experts_per_tok`;
    other models have 0 of them and one MLP of width `intermediate_size`.
    """

    family: str
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt = Field(
        default_factory=lambda known: known["num_attention_heads"]
    )
    head_dim: PositiveInt = Field(
        default_factory=lambda known: known["hidden_size"] // known["num_attention_heads"]
    )
    max_position_embeddings: PositiveInt = 8192
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_type: str = "default"
    rope_factor: PositiveFloat = 1.0
    rope_theta: float = 10_000.0
    use_sliding_window: bool = False
    has_qkv_bias: bool = False
    has_qk_norm: bool = Field(default=False, validation_alias="qk_norm")
    num_experts: NonNegativeInt = 0
    num_experts_per_tok: NonNegativeInt = 0
    moe_intermediate_size: NonNegativeInt = 0
    is_tied: bool = False
    eos_token_ids: tuple[int, ...] = ()

    @property
    def max_context(self) -> int:
        """The longest context in tokens that the checkpoint's own scaling of positions allows."""
        factor = max(1.0, self.rope_factor) if self.rope_type == "dynamic" else 1.0
        return int(self.max_position_embeddings * factor)


class ProjectorConfig(_Section):
    """Joins the patches of a tile into image tokens of the text model.

    `downsample_ratio` is the ratio of tokens to patches along one side. `select_layer` is the vision layer
    whose output is projected: an index with the embeddings as 0, or from the end with the last as -1.
    """

    downsample_ratio: PositiveFloat = 0.5
    ps_version: str = "v2"
    projector_hidden_act: str = "gelu"
    vision_feature_select_strategy: str = "default"
    select_layer: int = Field(
        default=-1, validation_alias=AliasChoices("select_layer", "vision_feature_layer")
    )


class Quantization(_Section):
    """How the language model's matrices are stored: `bits` a weight, a scale for each `group_size` inputs.

    `method` is transformers' `quant_method`; None for unquantized weights.
    """

    method: str | None = None
    bits: PositiveInt = 16
    group_size: int = 0


class CheckpointConfig(_Section):
    """A whole config.json. Values that only one layout can state are None in the other.

    `name` is the checkpoint's, for messages. `tile_px` is the side of a tile in pixels. `max_tiles` is the
    largest number of tiles per image it was trained for, without thumbnail.
    """

    name: str
    layout: Layout
    vision: VisionConfig
    text: TextConfig
    projector: ProjectorConfig
    quantization: Quantization
    tile_px: _SidePx
    max_tiles: PositiveInt | None = Field(default=None, validation_alias="max_dynamic_patch")
    image_token_id: int | None = None
    template: str | None = None
    served_name: str | None = None

    @property
    def num_tokens_per_tile(self) -> int:
        """Image tokens that stand for one tile in the prompt."""
        per_side = self.tile_px // self.vision.patch_size * self.projector.downsample_ratio
        return int(per_side * per_side)


def parse_config(config: Mapping[str, Any], name: str) -> CheckpointConfig:
    """Interpret the content of a config.json of either layout.

    Args:
        config: Its content.
        name: The checkpoint's name, for messages.

    Raises:
        StartupError: It describes no InternVL model, or a value is missing or of the wrong type.
    """
    config = _without_nulls(config)
    layout = _layout_of(config, name)
    text = _section(config, "llm_config" if layout == "authors" else "text_config", name)
    vision = _section(config, "vision_config", name)
    if layout == "authors":
        vision = {**_AUTHORS_VISION_DEFAULTS, **vision}
    try:
        return CheckpointConfig.model_validate(
            {
                **config,
                "name": name,
                "layout": layout,
                "vision": VisionConfig.model_validate(vision),
                "text": TextConfig.model_validate(text_fields(layout, text, config)),
                "projector": ProjectorConfig.model_validate(config),
                "quantization": _quantization(config, text),
                "tile_px": config.get("force_image_size") or vision.get("image_size", 448),
            }
        )
    except ValidationError as err:
        raise StartupError(f"config.json of {name}: {_first_problem(err)}.") from err
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise StartupError(f"config.json of {name} has an unusable value: {err!r}.") from err


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _layout_of(config: Mapping[str, Any], name: str) -> Layout:
    architectures = config.get("architectures") or []
    for architecture in architectures:
        if architecture in _LAYOUTS:
            return _LAYOUTS[architecture]
    raise StartupError(
        f"config.json of {name} names the architecture {architectures}; supported are "
        f"{sorted(_LAYOUTS)}."
    )


def _section(config: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    section = config.get(key)
    if not isinstance(section, Mapping):
        raise StartupError(f"config.json of {name} has no section {key!r}.")
    return _without_nulls(section)


def _quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> Quantization:
    found = config.get("quantization_config") or text.get("quantization_config")
    if not found:
        return Quantization()
    method = str(found.get("quant_method"))
    if method == "fp8":
        block = found.get("weight_block_size") or [128]
        return Quantization(method=method, bits=8, group_size=block[0])
    # compressed-tensors nests the sizes in groups of layers; those of InternVL have one.
    groups: Mapping[str, Any] = found.get("config_groups") or {"": {}}
    sizes = {**next(iter(groups.values())).get("weights", {}), **found}
    bits = sizes.get("bits") or sizes.get("num_bits") or 4
    return Quantization(method=method, bits=bits, group_size=sizes.get("group_size") or 128)


def _first_problem(err: ValidationError) -> str:
    first = err.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{err.title} has no {where}"
    return f"{err.title}.{where} is {first['input']!r}: {first['msg']}"
