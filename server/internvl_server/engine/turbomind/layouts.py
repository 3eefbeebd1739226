"""What LMDeploy 0.18 does not know of the two checkpoint layouts: names of weights and of text models.

Also what it would not notice: weights that it leaves out, and a tokenizer that is code.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lmdeploy.turbomind.models import internvl
from safetensors import safe_open

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.engine.turbomind.authors_config import register_authors_config
from internvl_server.errors import StartupError
from internvl_server.planner.models import why_unserved

__all__ = ["check_loadable", "name_text_model", "teach_layouts"]

_MODULES = {
    "authors": {"vision_model", "mlp1", "language_model"},
    "hf": {"vision_tower", "multi_modal_projector", "language_model", "model", "lm_head"},
}


def check_loadable(checkpoint: Checkpoint) -> None:
    """Refuse what LMDeploy would load differently than its authors meant it.

    Raises:
        StartupError: The tokenizer exists only as Python code, or there are weights of another architecture.
    """
    if checkpoint.needs_code:
        raise StartupError(
            why_unserved(checkpoint.config.name)
            or "The checkpoint's tokenizer exists only as Python code (trust_remote_code), which this server "
            "never runs. Serve the same model in transformers' layout: its name ends in -hf."
        )
    modules = {name.split(".")[0] for name in _weight_names(checkpoint.path)}
    if unknown := sorted(modules - _MODULES[checkpoint.config.layout]):
        raise StartupError(
            f"The checkpoint has weights of {', '.join(unknown)}, which TurboMind would leave out. Versions "
            "named -Flash have such weights; serve the version without them."
        )


def _weight_names(folder: Path) -> Iterable[str]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        yield from names
        return
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            yield from weights.keys()


def teach_layouts() -> None:
    """Make LMDeploy read configs of the authors' layout, and newer names of weights. Idempotent."""
    register_authors_config()
    internvl.map_internvl_hf_keys = _map_weight_name


def _map_weight_name(name: str, old: Callable[[str], str] = internvl.map_internvl_hf_keys) -> str:
    """LMDeploy's name for a weight of transformers' layout.

    LMDeploy 0.18 takes the text model's names of before transformers 4.52, and knows the newer ones only for
    Intern-S1, which has the same.
    """
    return str(internvl.map_interns1_hf_keys(old(name)))


def name_text_model(checkpoint: Checkpoint, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """`hf_overrides` with the class of a text model that became Llama in transformers' layout.

    The published versions of InternLM2 still name its own class there, whose weights have other names.

    Args:
        checkpoint: The checkpoint.
        overrides: The user's, which come first.
    """
    found = dict(overrides or {})
    if (checkpoint.config.layout, checkpoint.config.text.family) == ("hf", "llama"):
        text = {"architectures": ["LlamaForCausalLM"]}
        found["text_config"] = text | found.get("text_config", {})
    return found
