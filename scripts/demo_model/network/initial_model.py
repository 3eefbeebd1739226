"""The untrained model."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from transformers import InternVLForConditionalGeneration

from scripts.demo_model.network.architecture import build_config, build_model
from scripts.demo_model.network.language_start import start_language
from scripts.demo_model.network.vision_start import start_vision


def initial_model(tokenizer: Tokenizer) -> InternVLForConditionalGeneration:
    """Return the untrained model; its weights are always the same."""
    torch.manual_seed(0)
    model = build_model(build_config(tokenizer))
    start_vision(model.model)
    start_language(model, tokenizer)
    return model
