"""The memory a model needs on each GPU, and what remains for keys and values.

Weights, keys and values are exact. The CUDA context, communication buffers and working memory are estimates,
and named so. Tensors are split over GPUs as LMDeploy 0.18 does it (turbomind/builders,
turbomind/models/internvl.py); TurboMind's kernels may pad the MLPs further, which is not known without a GPU.
"""

from dataclasses import dataclass

from internvl_server.checkpoint.config import CheckpointConfig, TextConfig
from internvl_server.planner.gpus import GIB, gib
from internvl_server.planner.parameters import (
    projector_inputs,
    projector_parameters,
    text_layer_biases,
    text_layer_matrices,
    text_replicated,
    vision_layer_attention,
    vision_layer_mlp,
    vision_replicated,
)

__all__ = [
    "Deployment",
    "MemoryPlan",
    "make_plan",
    "tiles_at_once",
    "tp_problem",
    "valid_tps",
]

_BYTES = 2  # of a weight or activation: float16 or bfloat16
_BLOCK_TOKENS = 64  # TurboMind's cache_block_seq_len
# Of a logit while tokens are drawn without top_k: itself in 16 and 32 bits, two copies of probability and
# index, and the space of the sort. Source: sampling_topp_kernels.cu.
_LOGITS_BYTES = 24
_CONTEXT_BYTES = GIB * 3 // 4  # CUDA context, kernels, cuBLAS workspaces: estimate
_COMMUNICATION_BYTES = GIB * 3 // 4  # NCCL or IPC buffers when tp > 1: estimate
# Of a position and channel of the vision tower in its attention: input, normed input, query, key, value,
# their copies by head, and the output. Source: internvit.cc; not measured.
_VISION_BYTES = 16
_VOCABULARY_STEP = 8  # rows of the output's table that a GPU holds, when several share it
_SLACK = 1.15  # fragments between buffers: estimate


@dataclass(frozen=True, slots=True)
class Deployment:
    """How to run a model, as `engine.turbomind` states it.

    `context` is the longest request in tokens, prompt and answer together. `kv_bits` is 16, 8 or 4.
    `cache_share` is `cache_max_entry_count`: the share of the memory left free by the weights that becomes
    KV cache. `max_image_tiles` is the largest number of tiles of one image: a request's 40 and the
    thumbnail.
    """

    tp: int = 1
    context: int = 32_768
    max_num_seqs: int = 64
    kv_bits: int = 16
    cache_share: float = 0.8
    max_prefill_tokens: int = 8192
    max_image_tiles: int = 41


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on each of the `tp` GPUs. `kv_bytes_per_token` is the cache that one token takes there."""

    model: CheckpointConfig
    deployment: Deployment
    gpu_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int
    overhead_bytes: int
    working_bytes: int

    @property
    def free_bytes(self) -> int:
        """Free once the weights are loaded; negative if they do not fit."""
        return self.gpu_bytes - self.overhead_bytes - self.weight_bytes

    @property
    def cache_bytes(self) -> int:
        """The share that becomes KV cache."""
        return max(0, int(self.free_bytes * self.deployment.cache_share))

    @property
    def num_tokens(self) -> int:
        """Tokens that fit the KV cache, in whole blocks."""
        return self.cache_bytes // (self.kv_bytes_per_token * _BLOCK_TOKENS) * _BLOCK_TOKENS

    @property
    def problem(self) -> str:
        """Why the model does not fit, with the numbers; empty if it fits."""
        spare = self.free_bytes - self.cache_bytes
        if self.free_bytes <= self.working_bytes:
            return (
                f"weights ({gib(self.weight_bytes)}), overhead ({gib(self.overhead_bytes)}) and "
                f"working memory ({gib(self.working_bytes)}) of each GPU exceed its "
                f"{gib(self.gpu_bytes)}"
            )
        if self.num_tokens < self.deployment.context:
            return (
                f"the KV cache holds {self.num_tokens:,} tokens, less than one request of "
                f"{self.deployment.context:,}"
            )
        if spare < self.working_bytes:
            return (
                f"the KV cache leaves {gib(spare)} of each GPU, less than the working memory of "
                f"about {gib(self.working_bytes)}"
            )
        return ""

    def num_requests(self, tokens: int) -> int:
        """Requests of `tokens` tokens that run at once, limited by the cache and by `max_num_seqs`."""
        return min(self.num_tokens // tokens, self.deployment.max_num_seqs)


def make_plan(model: CheckpointConfig, deployment: Deployment, gpu_bytes: int) -> MemoryPlan:
    """Compute the memory of one GPU.

    Args:
        model: The model to load.
        deployment: How to run it; `tp` must be one of `valid_tps`.
        gpu_bytes: Memory of the smallest of the GPUs.
    """
    tp = deployment.tp
    assert tp_problem(model, tp) == "", (model.name, tp)
    return MemoryPlan(
        model=model,
        deployment=deployment,
        gpu_bytes=gpu_bytes,
        weight_bytes=_text_bytes(model, tp) + _vision_bytes(model, tp),
        kv_bytes_per_token=_kv_bytes(model.text, deployment),
        overhead_bytes=_CONTEXT_BYTES + (_COMMUNICATION_BYTES if tp > 1 else 0),
        working_bytes=_working_bytes(model, deployment),
    )


def valid_tps(model: CheckpointConfig, most: int = 8) -> list[int]:
    """The numbers of GPUs, up to `most`, over which TurboMind can split this model."""
    return [tp for tp in range(1, most + 1) if not tp_problem(model, tp)]


def tp_problem(model: CheckpointConfig, tp: int) -> str:
    """Why TurboMind cannot split the model over `tp` GPUs; empty if it can.

    Query heads must divide evenly. Key-value heads are repeated until they do, which works if the next
    multiple of `tp` is a multiple of their number. Every GPU holds InternViT's whole attention if its heads
    do not divide (the 6B has 25); its MLP must divide. Quantized weights divide in whole groups.
    """
    text = model.text
    inputs = text.num_attention_heads * text.head_dim
    if text.num_attention_heads % tp:
        return f"{text.num_attention_heads} heads do not divide by {tp}"
    if _padded_kv_heads(text, tp) % text.num_key_value_heads:
        return f"{text.num_key_value_heads} key-value heads cannot be repeated over {tp} GPUs"
    widths = text.hidden_size, model.vision.intermediate_size
    if widths[0] % tp or widths[1] % tp:
        return f"the widths {widths[0]} and {widths[1]} do not both divide by {tp}"
    group = model.quantization.group_size
    if group and (inputs % group or inputs // group % tp):
        return f"{inputs / group:g} groups of quantized weights do not divide by {tp}"
    return ""


def _padded_kv_heads(text: TextConfig, tp: int) -> int:
    """Key-value heads over all GPUs after repeating: the next multiple of `tp`.

    Source: `_repeat_kv_heads`, lmdeploy/turbomind/builders/attention.py.
    """
    return _padded(text.num_key_value_heads, tp)


def _text_bytes(model: CheckpointConfig, tp: int) -> int:
    text = model.text
    extra_kv = (_padded_kv_heads(text, tp) - text.num_key_value_heads) * text.head_dim
    extra_mlp = 3 * max(1, text.num_experts) * _mlp_padding(model, tp)
    matrices = text_layer_matrices(text) + (2 * extra_kv + extra_mlp) * text.hidden_size
    biases = text_layer_biases(text) + (2 * extra_kv if text.has_qkv_bias else 0)
    layer_bytes = matrices * _bytes_per_weight(model) + biases * _BYTES
    # The table of the input and that of the output, even if the checkpoint has only one of them.
    rows = text.vocab_size + _padded(text.vocab_size, _VOCABULARY_STEP * tp if tp > 1 else 1)
    shared_bytes = text.num_hidden_layers * layer_bytes + rows * text.hidden_size * _BYTES
    return int(shared_bytes / tp) + text_replicated(text) * _BYTES


def _mlp_padding(model: CheckpointConfig, tp: int) -> int:
    """Columns that widen an MLP so that quantized weights divide over the GPUs in whole groups."""
    width = model.text.moe_intermediate_size if model.text.num_experts else 0
    width = width or model.text.intermediate_size
    return _padded(width, max(1, model.quantization.group_size) * tp) - width


def _padded(size: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-size // step) * step


def _bytes_per_weight(model: CheckpointConfig) -> float:
    """For a matrix that may be quantized; each group has a 16-bit scale and a 16-bit zero point."""
    group_size = model.quantization.group_size
    return model.quantization.bits / 8 + (2 * _BYTES / group_size if group_size else 0)


def _vision_bytes(model: CheckpointConfig, tp: int) -> int:
    vision, num_layers = model.vision, model.vision.num_hidden_layers
    attention_tp = tp if vision.num_attention_heads % tp == 0 else 1
    attention = num_layers * vision_layer_attention(vision) // attention_tp
    mlp = num_layers * vision_layer_mlp(vision) // tp
    # Every GPU holds the projector's norm and last bias.
    projector_whole = 2 * projector_inputs(model) + model.text.hidden_size
    projector = (projector_parameters(model) - projector_whole) // tp
    whole = vision_replicated(vision) + projector_whole
    return _BYTES * (attention + mlp + projector + whole)


def _kv_bytes(text: TextConfig, deployment: Deployment) -> int:
    """Keys and values of one token on one GPU.

    Quantized ones have a 16-bit scale and a 16-bit zero point for each head, as in TurboMind's cache blocks.
    """
    heads = _padded_kv_heads(text, deployment.tp) // deployment.tp
    parameters = 0 if deployment.kv_bits == 8 * _BYTES else 2 * _BYTES
    return (
        2 * text.num_hidden_layers * heads * (text.head_dim * deployment.kv_bits // 8 + parameters)
    )


def _working_bytes(model: CheckpointConfig, deployment: Deployment) -> int:
    """Estimate of the largest step of the language model and the images it begins or continues."""
    text, tp = model.text, deployment.tp
    tokens = deployment.max_prefill_tokens + deployment.max_num_seqs
    kv_heads = _padded_kv_heads(text, tp) // tp
    heads = 2 * text.num_attention_heads // tp + 2 * kv_heads
    mlp = 3 * text.intermediate_size // tp
    if text.num_experts:  # each token passes several, whose outputs are kept until they are added
        width = 3 * text.moe_intermediate_size // tp + text.hidden_size
        mlp = text.num_experts_per_tok * width
    widths = 4 * text.hidden_size + heads * text.head_dim + mlp
    step = tokens * widths * _BYTES
    flat_cache = 2 * deployment.context * kv_heads * text.head_dim * _BYTES
    logits = deployment.max_num_seqs * text.vocab_size * _LOGITS_BYTES
    tiles = tiles_at_once(model, deployment) * _tile_size(model) * _VISION_BYTES
    return int(_SLACK * (step + flat_cache + logits + tiles))


def tiles_at_once(model: CheckpointConfig, deployment: Deployment) -> int:
    """The largest number of tiles that the vision tower computes at once.

    On one GPU these are all images of which a prefill step has a token, each of them whole: at both ends of a
    step may be images that other steps share. GPUs that share the model compute as many tiles as the buffer
    holds through which they exchange data; 0 tiles end the process. Source: internvit.cc (Setup and
    PlanInternVitMicroBatch).
    """
    tokens = deployment.max_prefill_tokens
    num_tiles = tokens // model.num_tokens_per_tile + 2 * (deployment.max_image_tiles - 1)
    if deployment.tp == 1:
        return max(1, num_tiles)
    return min(max(1, num_tiles), tokens * model.text.hidden_size // _tile_size(model))


def _tile_size(model: CheckpointConfig) -> int:
    """Values of one tile in the vision tower: its patches and the class token, times the channels."""
    return (model.vision.num_patches + 1) * model.vision.hidden_size
