"""The authors' checkpoint layout without the authors' code: its config, for transformers and LMDeploy.

A checkpoint in the authors' layout names Python files of its own (`auto_map`) for its config. LMDeploy
0.18 without them reads `llm_config` as a plain dictionary and fails on it. The class here has the same
content, so no code of a checkpoint is ever run. What remains is the tokenizer: LMDeploy makes one of the
checkpoint's files, and one that exists only as the checkpoint's code cannot be made. Of InternVL3 that is
the 9B (InternLM3) in the authors' layout; the other six have Qwen2's tokenizer.
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from internvl_server.errors import StartupError

__all__ = ["check_needs_no_code", "register_authors_config"]

_TEXT_MODEL_TYPE = "qwen2"


class AuthorsConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """`InternVLChatModel`'s config.json as objects: `llm_config` and `vision_config` have attributes."""

    model_type = "internvl_chat"

    def __init__(
        self,
        llm_config: dict[str, Any] | None = None,
        vision_config: dict[str, Any] | None = None,
        **fields: Any,  # noqa: ANN401  (whatever else config.json holds)
    ) -> None:
        self.llm_config = _text_config(llm_config or {})
        # Old dumps leave out what was the default.
        self.vision_config = PretrainedConfig(
            **{"num_channels": 3, "norm_type": "layer_norm", **(vision_config or {})}
        )
        super().__init__(**fields)


def register_authors_config() -> None:
    """Make transformers read the authors' layout with the class above. Idempotent."""
    AutoConfig.register(AuthorsConfig.model_type, AuthorsConfig, exist_ok=True)


def check_needs_no_code(folder: Path) -> None:
    """Refuse a checkpoint whose tokenizer is code of its own.

    Raises:
        StartupError: Names the layout that has none.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "AutoTokenizer" in (config.get("auto_map") or {}):
        raise StartupError(
            "The checkpoint's tokenizer is Python code of its own (trust_remote_code), which this server "
            "never runs. Serve the same model in transformers' layout: its name ends in -hf, e.g. "
            "OpenGVLab/InternVL3-9B-hf."
        )


def _text_config(fields: dict[str, Any]) -> PretrainedConfig:
    model_type = fields.get("model_type", _TEXT_MODEL_TYPE)
    rest = {key: value for key, value in fields.items() if key not in ("model_type", "auto_map")}
    try:
        return AutoConfig.for_model(model_type, **rest)
    except ValueError:  # transformers has no such text model; LMDeploy reads attributes
        return PretrainedConfig(**rest)
