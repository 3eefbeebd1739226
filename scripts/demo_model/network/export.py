"""Writes the trained model as a checkpoint folder that transformers and the server load."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, InternVLForConditionalGeneration

from scripts.demo_model.network.architecture import MAX_DYNAMIC_PATCH, TILE_PX
from scripts.demo_model.network.tokenizer import tokenizer_settings

_PREPROCESSOR = {
    "crop_to_patches": True,
    "data_format": "channels_first",
    "do_center_crop": None,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "image_std": [0.229, 0.224, 0.225],
    "max_patches": MAX_DYNAMIC_PATCH,
    "min_patches": 1,
    "processor_class": "InternVLProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": TILE_PX, "width": TILE_PX},
}


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export_model(
    model: InternVLForConditionalGeneration, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write the weights in bfloat16, the configuration, the tokenizer and the image settings.

    Args:
        model: The trained model; it is not changed.
        tokenizer: The model's tokenizer.
        folder: The checkpoint folder; files of an earlier export are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy = InternVLForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    eos, pad = model.config.text_config.eos_token_id, model.config.text_config.pad_token_id
    copy.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=eos, pad_token_id=pad, max_new_tokens=256
    )
    copy.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", tokenizer_settings())
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
