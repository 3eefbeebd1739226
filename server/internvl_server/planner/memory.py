"""What a model takes of each GPU, and what is left for keys and values.

Exact from the sizes: weights, keys and values. Estimates, named so: the CUDA context and communication
buffers, and working memory. How tensors are split over GPUs is LMDeploy 0.18's way
(turbomind/builders, turbomind/models/internvl.py); that its layers share weights evenly, without
padding of the MLP, may be off by a percent.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from internvl_server.checkpoint.architecture import Architecture, TextSizes
from internvl_server.errors import StartupError

__all__ = [
    "GIB",
    "Deployment",
    "GpuSet",
    "MemoryPlan",
    "make_plan",
    "parse_gpus",
    "tp_problem",
    "valid_tps",
]

GIB = 1 << 30
_GB = 10**9  # a card's label, and a little less than what its driver leaves of it
_BYTES = 2  # of a weight or activation: float16 or bfloat16
_BLOCK_TOKENS = 64  # TurboMind's cache_block_seq_len
_LOGITS_BYTES = 8  # logits in float32, and a sorted copy for sampling
_CONTEXT_BYTES = GIB * 3 // 4  # CUDA context, kernels, cuBLAS workspaces: estimate
_COMMUNICATION_BYTES = GIB * 3 // 4  # NCCL or IPC buffers when tp > 1: estimate
_VISION_CHUNK_TILES = 16  # tiles the vision tower computes at once: estimate
_SLACK = 1.15  # fragments between buffers: estimate


@dataclass(frozen=True, slots=True)
class GpuSet:
    """`count` equal GPUs of one machine, `num_bytes` each."""

    label: str
    count: int
    num_bytes: int

    @staticmethod
    def of(sizes: Sequence[int]) -> "GpuSet":
        """From the bytes of the GPUs at hand; the smallest counts, since shares are equal."""
        smallest = min(sizes, default=0)
        return GpuSet(f"{len(sizes)}x{smallest / _GB:.0f}", len(sizes), smallest)


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a model is to be run, in the terms of `engine.turbomind`.

    `context` is the longest request in tokens, prompt and answer; `kv_bits` 16, 8 or 4;
    `cache_share` is `cache_max_entry_count`: the share of the memory free after loading that
    becomes KV cache.
    """

    tp: int = 1
    context: int = 32_768
    max_num_seqs: int = 64
    kv_bits: int = 16
    cache_share: float = 0.8
    max_prefill_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one of the `tp` GPUs, unless the name says otherwise. `num_tokens` fit the cache."""

    model: Architecture
    deployment: Deployment
    gpu_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int
    overhead_bytes: int
    working_bytes: int

    @property
    def free_bytes(self) -> int:
        """Left when the weights are loaded; negative when they do not fit."""
        return self.gpu_bytes - self.overhead_bytes - self.weight_bytes

    @property
    def cache_bytes(self) -> int:
        """What becomes KV cache."""
        return max(0, int(self.free_bytes * self.deployment.cache_share))

    @property
    def num_tokens(self) -> int:
        """In whole blocks."""
        return self.cache_bytes // (self.kv_bytes_per_token * _BLOCK_TOKENS) * _BLOCK_TOKENS

    @property
    def problem(self) -> str:
        """Why it does not fit, with the numbers; empty when it does."""
        spare = self.free_bytes - self.cache_bytes
        if self.free_bytes <= self.working_bytes:
            return (
                f"weights ({_gib(self.weight_bytes)}), overhead ({_gib(self.overhead_bytes)}) and "
                f"working memory ({_gib(self.working_bytes)}) of each GPU exceed its "
                f"{_gib(self.gpu_bytes)}"
            )
        if self.num_tokens < self.deployment.context:
            return (
                f"the KV cache holds {self.num_tokens:,} tokens, less than one request of "
                f"{self.deployment.context:,}"
            )
        if spare < self.working_bytes:
            return (
                f"the KV cache leaves {_gib(spare)} of each GPU, less than the working memory of "
                f"about {_gib(self.working_bytes)}"
            )
        return ""

    def num_requests(self, tokens: int) -> int:
        """Requests of so many tokens that run at once: by cache, and by `max_num_seqs`."""
        return min(self.num_tokens // tokens, self.deployment.max_num_seqs)


def parse_gpus(text: str) -> list[GpuSet]:
    """Read `1x24,2x80`.

    Raises:
        StartupError: It is written otherwise.
    """
    sets = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,2})\s*[xX×]\s*([1-9]\d{0,3})\s*", item)
        if match is None:
            raise StartupError(
                f"--gpus: {item.strip()!r} is not COUNTxGB. Write for example 1x24,2x80."
            )
        count, size = int(match[1]), int(match[2])
        sets.append(GpuSet(f"{count}x{size}", count, size * _GB))
    return sets


def make_plan(model: Architecture, deployment: Deployment, gpu_bytes: int) -> MemoryPlan:
    """Compute what one GPU holds. `deployment.tp` must be one of `valid_tps`.

    Args:
        model: What is loaded.
        deployment: How.
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


def valid_tps(model: Architecture, most: int = 8) -> list[int]:
    """Numbers of GPUs, up to `most`, that TurboMind can split this model over."""
    return [tp for tp in range(1, most + 1) if not tp_problem(model, tp)]


def tp_problem(model: Architecture, tp: int) -> str:
    """Why TurboMind cannot split the model over `tp` GPUs; empty when it can.

    Query heads must divide evenly. Key-value heads are repeated until they do, which works when the
    next multiple of `tp` is a multiple of them. InternViT's attention is kept whole on every GPU where
    its heads do not divide (the 6B's 25), its MLP must divide. Quantized weights divide in whole groups.
    """
    text = model.text
    inputs = text.heads * text.head_dim
    if text.heads % tp:
        return f"{text.heads} heads do not divide by {tp}"
    if _padded_kv_heads(text, tp) % text.kv_heads:
        return f"{text.kv_heads} key-value heads cannot be repeated over {tp} GPUs"
    if text.hidden % tp or model.vision.mlp % tp:
        return f"the widths {text.hidden} and {model.vision.mlp} do not both divide by {tp}"
    group = model.weight_group
    if group and (inputs % group or inputs // group % tp):
        return f"{inputs / group:g} groups of quantized weights do not divide by {tp}"
    return ""


def _padded_kv_heads(text: TextSizes, tp: int) -> int:
    """Key-value heads over all GPUs after repeating: the next multiple of `tp`.

    Source: `_repeat_kv_heads`, lmdeploy/turbomind/builders/attention.py.
    """
    return -(-text.kv_heads // tp) * tp


def _text_bytes(model: Architecture, tp: int) -> int:
    text = model.text
    extra_kv = (_padded_kv_heads(text, tp) - text.kv_heads) * text.head_dim
    linear = text.linear_parameters + 2 * extra_kv * text.hidden
    biases = text.bias_parameters + (2 * extra_kv if text.has_bias else 0)
    tables = 2 * text.vocab * text.hidden  # a tied table is loaded as two
    shared = text.layers * (linear * _bytes_a_weight(model) + biases * _BYTES) + tables * _BYTES
    return int(shared / tp) + text.norm_parameters * _BYTES


def _bytes_a_weight(model: Architecture) -> float:
    """Of a quantizable matrix; a group has a 16-bit scale and zero."""
    scales = 2 * _BYTES / model.weight_group if model.weight_group else 0
    return model.weight_bits / 8 + scales


def _vision_bytes(model: Architecture, tp: int) -> int:
    vision, out = model.vision, model.text.hidden
    attention_tp = tp if vision.heads % tp == 0 else 1
    attention = vision.layers * vision.attention_parameters // attention_tp
    mlp = vision.layers * vision.mlp_parameters // tp
    projector = (model.projector_parameters - 2 * model.projector_inputs - out) // tp
    whole = vision.replicated_parameters + 2 * model.projector_inputs + out
    return _BYTES * (attention + mlp + projector + whole)


def _kv_bytes(text: TextSizes, deployment: Deployment) -> int:
    """Keys and values of one token on one GPU.

    Quantized ones carry a 16-bit scale and zero for each head, as TurboMind's cache blocks do.
    """
    heads = _padded_kv_heads(text, deployment.tp) // deployment.tp
    parameters = 0 if deployment.kv_bits == 8 * _BYTES else 2 * _BYTES
    return 2 * text.layers * heads * (text.head_dim * deployment.kv_bits // 8 + parameters)


def _working_bytes(model: Architecture, deployment: Deployment) -> int:
    """Estimate: what one step of the language model takes at most, and one chunk of the vision tower."""
    text, vision, tp = model.text, model.vision, deployment.tp
    tokens = deployment.max_prefill_tokens + deployment.max_num_seqs
    kv_heads = _padded_kv_heads(text, tp) // tp
    widths = 4 * text.hidden + (2 * text.heads // tp + 2 * kv_heads) * text.head_dim
    step = tokens * (widths + 3 * text.mlp // tp) * _BYTES
    flat_cache = 2 * deployment.context * kv_heads * text.head_dim * _BYTES
    logits = deployment.max_num_seqs * text.vocab * _LOGITS_BYTES
    patches = _VISION_CHUNK_TILES * vision.num_positions
    tiles = patches * (6 * vision.hidden + vision.mlp // tp) * _BYTES
    return int(_SLACK * (step + flat_cache + logits + tiles))


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
