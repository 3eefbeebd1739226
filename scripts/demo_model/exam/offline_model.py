"""Asks an exported demo model without a server: transformers loads it like any checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from scripts.demo_model.exam.tasks import Task
from scripts.demo_model.network.architecture import MAX_DYNAMIC_PATCH, TOKENS_PER_TILE
from scripts.demo_model.network.forward import to_pixel_values
from scripts.demo_model.network.tokenizer import SYSTEM_TEXT
from scripts.demo_model.world.drawing import render_scene
from scripts.demo_model.world.sampling import HIGH_DETAIL_TILES
from scripts.demo_model.world.tiling import tile_image

_MAX_TILES = {"low": 1, "auto": MAX_DYNAMIC_PATCH, "high": HIGH_DETAIL_TILES}


class OfflineModel:
    """An exported checkpoint and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._model = InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self._model.eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @torch.inference_mode()
    def answer(self, task: Task) -> str:
        """Return the greedy answer to a task."""
        tiles = [
            tile_image(render_scene(scene), max_tiles=_MAX_TILES[task.detail])
            for scene in task.scenes
        ]
        ids = self._tokenizer.encode(_prompt(task, [len(t) for t in tiles])).ids
        inputs: dict[str, Tensor] = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        }
        if tiles:
            pixels = [to_pixel_values(torch.from_numpy(each)) for each in tiles]
            inputs["pixel_values"] = torch.cat(pixels)
        output = self._model.generate(**inputs, max_new_tokens=96, do_sample=False)
        return self._tokenizer.decode(output[0, len(ids) :].tolist(), skip_special_tokens=True)


def _prompt(task: Task, tile_counts: list[int]) -> str:
    images = [
        (f"Image-{number}: " if len(tile_counts) > 1 else "")
        + f"<img>{'<IMG_CONTEXT>' * (TOKENS_PER_TILE * count)}</img>\n"
        for number, count in enumerate(tile_counts, 1)
    ]
    turns = [f"system\n{SYSTEM_TEXT}"]
    if task.earlier:
        turns += [
            f"user\n{''.join(images)}{task.earlier.question}",
            f"assistant\n{task.earlier.answer}",
        ]
        images = []
    parts = [task.question, *images] if task.image_last else [*images, task.question]
    turns.append(f"user\n{''.join(parts)}")
    prompt = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    return f"{prompt}<|im_start|>assistant\n"
