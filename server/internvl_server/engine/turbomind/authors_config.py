"""The authors' checkpoint layout as a config class for transformers and LMDeploy, without the authors' code.

A checkpoint in that layout names its own Python files (`auto_map`) for its config. Without them, LMDeploy
0.18 reads `llm_config` as a plain dictionary and fails. The class here has the same content, so that no code
of a checkpoint is ever run. It passes values on as they are; the package `checkpoint` interprets them.
"""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

__all__ = ["register_authors_config"]

_TEXT_MODEL_TYPE = "qwen2"


class AuthorsConfig(PretrainedConfig):  # type: ignore[misc]
    """`InternVLChatModel`'s config.json, with `llm_config` and `vision_config` as objects."""

    model_type = "internvl_chat"

    def __init__(
        self,
        llm_config: dict[str, Any] | None = None,
        vision_config: dict[str, Any] | None = None,
        **fields: Any,  # noqa: ANN401  (the other fields of config.json)
    ) -> None:
        self.llm_config = _text_config(llm_config or {})
        # Older files omit the defaults of their time.
        self.vision_config = PretrainedConfig(
            **{"num_channels": 3, "norm_type": "layer_norm", **(vision_config or {})}
        )
        super().__init__(**fields)


def register_authors_config() -> None:
    """Register the class above with transformers for the authors' layout. Idempotent."""
    AutoConfig.register(AuthorsConfig.model_type, AuthorsConfig, exist_ok=True)


def _text_config(fields: dict[str, Any]) -> PretrainedConfig:
    model_type = fields.get("model_type", _TEXT_MODEL_TYPE)
    rest = {key: value for key, value in fields.items() if key not in ("model_type", "auto_map")}
    try:
        return AutoConfig.for_model(model_type, **rest)
    except ValueError:  # transformers has no such text model; LMDeploy reads attributes
        scaling = rest.pop("rope_scaling", None) or {}
        config = PretrainedConfig(**{"tie_word_embeddings": False, **rest})
        # Only a config class that knows of it may be given the scaling of positions.
        config.rope_parameters = {"rope_theta": rest.get("rope_theta", 10_000.0), **scaling}
        return config
