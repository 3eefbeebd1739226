"""Tiny checkpoints of both layouts with every file LMDeploy's own server needs; weights are never read."""

import json
from pathlib import Path
from typing import Any

from scripts.make_random_checkpoint import SHAPES, Shape, write_checkpoint

# ChatML with the system text of the text model's own tokenizer: what LMDeploy 0.18 falls back to.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are a text model.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<|video_pad|>",
}


def make_checkpoint(folder: Path, layout: str, *, shape: Shape = SHAPES["tiny"]) -> Path:
    write_checkpoint(folder, shape, layout=layout, dtype="bfloat16", seed=0)
    change(folder / "tokenizer_config.json", chat_template=CHATML)
    if layout == "authors":
        # As published: it names its own code, which must not be needed.
        code = "configuration_internvl_chat.InternVLChatConfig"
        change(folder / "config.json", auto_map={"AutoConfig": code})
        return folder
    change(folder / "tokenizer_config.json", extra_special_tokens=NAMED_TOKENS)
    size = {"height": shape.tile_px, "width": shape.tile_px}
    change(
        folder / "preprocessor_config.json",
        image_processor_type="GotOcr2ImageProcessorFast", processor_class="InternVLProcessor",
        size=size, crop_to_patches=False, min_patches=1, max_patches=12, do_rescale=True,
        rescale_factor=1 / 255, resample=3, do_convert_rgb=True,
    )  # fmt: skip
    (folder / "processor_config.json").write_text(
        json.dumps(
            {"processor_class": "InternVLProcessor", "image_seq_length": shape.tokens_per_tile}
        )
    )
    return folder


def change(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields, indent=2))
