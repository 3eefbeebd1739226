"""Exact parameter counts of a model's parts, from its config.

They equal the tensors that transformers builds from the same config
(tests/unit/planner/test_parameters.py). Counts are for one layer where the name says so.
"""

from internvl_server.checkpoint.config import CheckpointConfig, TextConfig, VisionConfig

__all__ = [
    "num_parameters",
    "projector_inputs",
    "projector_parameters",
    "text_layer_biases",
    "text_layer_matrices",
    "text_replicated",
    "vision_layer_attention",
    "vision_layer_mlp",
    "vision_replicated",
]


def num_parameters(model: CheckpointConfig) -> int:
    """Every weight once, quantized or not; a tied table counts once."""
    return _vision(model.vision) + projector_parameters(model) + _text(model.text)


def vision_layer_attention(vision: VisionConfig) -> int:
    """Query, key, value, output projection and the norms of query and key, without its last bias."""
    biases = (3 if vision.has_qkv_bias else 0) + (2 if vision.has_qk_norm else 0)
    return 4 * vision.hidden_size**2 + biases * vision.hidden_size


def vision_layer_mlp(vision: VisionConfig) -> int:
    """Both matrices and the first bias; every GPU holds the whole second one."""
    return 2 * vision.hidden_size * vision.intermediate_size + vision.intermediate_size


def vision_replicated(vision: VisionConfig) -> int:
    """What every GPU holds whole: embeddings, norms, layer scales, the last biases of attention and MLP."""
    num_positions = vision.num_patches + 1  # the class token
    patch = vision.num_channels * vision.patch_size**2 + 1
    norm = vision.hidden_size if vision.norm_type == "rms_norm" else 2 * vision.hidden_size
    layers = vision.num_hidden_layers * (2 * norm + 4 * vision.hidden_size)
    return vision.hidden_size * (patch + 1 + num_positions) + layers


def projector_inputs(model: CheckpointConfig) -> int:
    """Width of the projector's input: the patches of one image token side by side."""
    return int(model.vision.hidden_size / model.projector.downsample_ratio**2)


def projector_parameters(model: CheckpointConfig) -> int:
    """A layer norm and two linear layers with biases."""
    inputs, hidden = projector_inputs(model), model.text.hidden_size
    return 2 * inputs + hidden * (inputs + hidden + 2)


def text_layer_matrices(text: TextConfig) -> int:
    """The matrices that AWQ quantizes: attention, and the MLP or the MLPs of all experts."""
    attention = (2 * text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    width = text.num_experts * text.moe_intermediate_size or text.intermediate_size
    return text.hidden_size * (attention + 3 * width)


def text_layer_biases(text: TextConfig) -> int:
    """Biases of query, key and value."""
    heads = text.num_attention_heads + 2 * text.num_key_value_heads
    return heads * text.head_dim if text.has_qkv_bias else 0


def text_replicated(text: TextConfig) -> int:
    """What every GPU holds whole: all norms, and the matrices that choose the experts."""
    qk_norm = 2 * text.head_dim if text.has_qk_norm else 0
    layer = (2 + text.num_experts) * text.hidden_size + qk_norm
    return text.num_hidden_layers * layer + text.hidden_size


def _vision(vision: VisionConfig) -> int:
    layer = vision_layer_attention(vision) + vision_layer_mlp(vision)
    return vision_replicated(vision) + vision.num_hidden_layers * layer


def _text(text: TextConfig) -> int:
    tables = (1 if text.is_tied else 2) * text.vocab_size * text.hidden_size
    layer = text_layer_matrices(text) + text_layer_biases(text)
    return tables + text.num_hidden_layers * layer + text_replicated(text)
