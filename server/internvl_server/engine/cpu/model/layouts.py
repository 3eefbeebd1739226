"""Names of the model's tensors in the two checkpoint layouts.

One parameter of the model holds one stored tensor, or several stacked by rows: q, k and v of the text model,
its gate and up projections, and q, k and v of the vision model in transformers' layout.
"""

import re
from collections.abc import Mapping

from internvl_server.checkpoint.config import Layout

__all__ = ["older_name", "stored_names"]

# The model's name, then the stored names whose rows form it. `{i}` is the index of a layer.
_DECODER = {
    "embed": ("model.embed_tokens",),
    "norm": ("model.norm",),
    "head": ("lm_head",),
    "layers.{i}.attn_norm": ("model.layers.{i}.input_layernorm",),
    "layers.{i}.qkv": tuple(f"model.layers.{{i}}.self_attn.{x}_proj" for x in "qkv"),
    "layers.{i}.q_norm": ("model.layers.{i}.self_attn.q_norm",),
    "layers.{i}.k_norm": ("model.layers.{i}.self_attn.k_norm",),
    "layers.{i}.o": ("model.layers.{i}.self_attn.o_proj",),
    "layers.{i}.mlp_norm": ("model.layers.{i}.post_attention_layernorm",),
    "layers.{i}.gate_up": ("model.layers.{i}.mlp.gate_proj", "model.layers.{i}.mlp.up_proj"),
    "layers.{i}.down": ("model.layers.{i}.mlp.down_proj",),
}
_VISION_AUTHORS = {
    "cls": ("vision_model.embeddings.class_embedding",),
    "position": ("vision_model.embeddings.position_embedding",),
    "patch": ("vision_model.embeddings.patch_embedding",),
    "projector.norm": ("mlp1.0",),
    "projector.fc1": ("mlp1.1",),
    "projector.fc2": ("mlp1.3",),
    "layers.{i}.qkv": ("vision_model.encoder.layers.{i}.attn.qkv",),
    "layers.{i}.q_norm": ("vision_model.encoder.layers.{i}.attn.q_norm",),
    "layers.{i}.k_norm": ("vision_model.encoder.layers.{i}.attn.k_norm",),
    "layers.{i}.proj": ("vision_model.encoder.layers.{i}.attn.proj",),
    "layers.{i}.norm1": ("vision_model.encoder.layers.{i}.norm1",),
    "layers.{i}.norm2": ("vision_model.encoder.layers.{i}.norm2",),
    "layers.{i}.scale1": ("vision_model.encoder.layers.{i}.ls1",),
    "layers.{i}.scale2": ("vision_model.encoder.layers.{i}.ls2",),
    "layers.{i}.fc1": ("vision_model.encoder.layers.{i}.mlp.fc1",),
    "layers.{i}.fc2": ("vision_model.encoder.layers.{i}.mlp.fc2",),
}
_VISION_HF = {
    "cls": ("vision_tower.embeddings.cls_token",),
    "position": ("vision_tower.embeddings.position_embeddings",),
    "patch": ("vision_tower.embeddings.patch_embeddings.projection",),
    "projector.norm": ("multi_modal_projector.layer_norm",),
    "projector.fc1": ("multi_modal_projector.linear_1",),
    "projector.fc2": ("multi_modal_projector.linear_2",),
    "layers.{i}.qkv": tuple(f"vision_tower.encoder.layer.{{i}}.attention.{x}_proj" for x in "qkv"),
    "layers.{i}.q_norm": ("vision_tower.encoder.layer.{i}.attention.q_norm",),
    "layers.{i}.k_norm": ("vision_tower.encoder.layer.{i}.attention.k_norm",),
    "layers.{i}.proj": ("vision_tower.encoder.layer.{i}.attention.projection_layer",),
    "layers.{i}.norm1": ("vision_tower.encoder.layer.{i}.layernorm_before",),
    "layers.{i}.norm2": ("vision_tower.encoder.layer.{i}.layernorm_after",),
    "layers.{i}.scale1": ("vision_tower.encoder.layer.{i}.lambda_1",),
    "layers.{i}.scale2": ("vision_tower.encoder.layer.{i}.lambda_2",),
    "layers.{i}.fc1": ("vision_tower.encoder.layer.{i}.mlp.fc1",),
    "layers.{i}.fc2": ("vision_tower.encoder.layer.{i}.mlp.fc2",),
}
_VISION: Mapping[Layout, Mapping[str, tuple[str, ...]]] = {
    "authors": _VISION_AUTHORS,
    "hf": _VISION_HF,
}
# Since 4.52, transformers writes one more level of names; both forms are mapped to the older one.
_NEW_PREFIXES = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def stored_names(name: str, layout: Layout) -> tuple[str, ...]:
    """Names of the stored tensors that form the parameter `name`, in the order of their rows."""
    tower, _, rest = name.partition(".")
    base, dot, suffix = rest.rpartition(".")
    if suffix not in {"weight", "bias"}:
        base, dot, suffix = rest, "", ""
    layer = re.search(r"layers\.(\d+)\.", base)
    index = layer.group(1) if layer else ""
    template = base.replace(f"layers.{index}.", "layers.{i}.", 1) if layer else base
    if tower == "decoder":
        parts = tuple("language_model." + part for part in _DECODER[template])
    else:
        parts = _VISION[layout][template]
    return tuple(part.replace("{i}", index) + dot + suffix for part in parts)


def older_name(name: str) -> str:
    """The name that transformers before 4.52 gave a stored tensor; the authors' names are unchanged."""
    for prefix, older in _NEW_PREFIXES.items():
        if name.startswith(prefix):
            return older + name.removeprefix(prefix)
    return name
