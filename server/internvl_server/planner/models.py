"""The seven published InternVL3 models, so that they can be planned for before anything is downloaded.

Sizes are those of the checkpoints' config.json files. The 9B's text model is InternLM3-8B, with the
vocabulary of its base model.
"""

import re
from dataclasses import replace

from internvl_server.checkpoint.architecture import Architecture, TextSizes, VisionSizes

__all__ = ["MODELS", "awq", "find_model"]

_INTERNVIT_300M = VisionSizes(
    hidden=1024, layers=24, heads=16, mlp=4096, tile_px=448, patch_px=14,
    has_bias=True, has_qk_norm=False, is_rms=False,
)  # fmt: skip
_INTERNVIT_6B = VisionSizes(
    hidden=3200, layers=45, heads=25, mlp=12_800, tile_px=448, patch_px=14,
    has_bias=False, has_qk_norm=True, is_rms=True,
)  # fmt: skip


def _qwen(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int) -> TextSizes:
    return TextSizes(
        hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=hidden // heads,
        mlp=mlp, vocab=151_674, context=32_768, has_bias=True, is_tied=False,
    )  # fmt: skip


_INTERNLM3_8B = TextSizes(
    hidden=4096, layers=48, heads=32, kv_heads=2, head_dim=128,
    mlp=10_240, vocab=128_512, context=32_768, has_bias=False, is_tied=False,
)  # fmt: skip

MODELS = {
    model.name: model
    for model in (
        Architecture("InternVL3-1B", _INTERNVIT_300M, _qwen(896, 24, 14, 2, 4864)),
        Architecture("InternVL3-2B", _INTERNVIT_300M, _qwen(1536, 28, 12, 2, 8960)),
        Architecture("InternVL3-8B", _INTERNVIT_300M, _qwen(3584, 28, 28, 4, 18_944)),
        Architecture("InternVL3-9B", _INTERNVIT_300M, _INTERNLM3_8B),
        Architecture("InternVL3-14B", _INTERNVIT_300M, _qwen(5120, 48, 40, 8, 13_824)),
        Architecture("InternVL3-38B", _INTERNVIT_6B, _qwen(5120, 64, 40, 8, 27_648)),
        Architecture("InternVL3-78B", _INTERNVIT_6B, _qwen(8192, 80, 64, 8, 29_568)),
    )
}

# OpenGVLab/InternVL3-2B, its transformers layout -hf, the stages -Pretrained and -Instruct, 4-bit -AWQ.
_NAME = re.compile(
    r"(?:.*/)?(?P<size>InternVL3-\d+B)(?:-Instruct|-Pretrained)?(?P<kind>-hf|-AWQ)?/?"
)


def find_model(name: str) -> Architecture | None:
    """The model a folder's or hub repository's name stands for, if it is one of the seven.

    `name` may be a bare `2B` or `2B-AWQ` too; upper and lower case are the same.
    """
    match = re.fullmatch(_NAME.pattern, _long(name), re.IGNORECASE)
    if match is None:
        return None
    model = MODELS.get("InternVL3-" + match["size"].upper().removeprefix("INTERNVL3-"))
    if model is None or (match["kind"] or "").upper() != "-AWQ":
        return model
    return awq(model)


def awq(model: Architecture) -> Architecture:
    """The same model with 4-bit weights, as published."""
    return replace(model, name=f"{model.name}-AWQ", weight_bits=4, weight_group=128)


def _long(name: str) -> str:
    return f"InternVL3-{name}" if re.match(r"\d+B\b", name, re.IGNORECASE) else name
