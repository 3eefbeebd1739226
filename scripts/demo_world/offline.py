"""Ask an exported demo model without a server: transformers loads it, as any checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from internvl_server.media.tiling import tile_image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from .drawing import draw_scene
from .exam import Task
from .modelling import TOKENS_PER_TILE, to_pixels
from .tokenizer import SYSTEM_TEXT

_MAX_TILES = {"low": 1, "auto": 4, "high": 12}


class OfflineModel:
    """An exported checkpoint and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._model = InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self._model.eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def _prompt(self, task: Task, tile_counts: list[int]) -> str:
        images = [
            (f"Image-{n + 1}: " if len(tile_counts) > 1 else "")
            + f"<img>{'<IMG_CONTEXT>' * (TOKENS_PER_TILE * count)}</img>\n"
            for n, count in enumerate(tile_counts)
        ]
        turns = [f"system\n{SYSTEM_TEXT}"]
        if task.earlier:
            turns += [
                f"user\n{''.join(images)}{task.earlier.question}",
                f"assistant\n{task.earlier.answer}",
            ]
            images = []
        parts = [task.question, *images] if task.picture_last else [*images, task.question]
        turns.append(f"user\n{''.join(parts)}")
        return (
            "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns) + "<|im_start|>assistant\n"
        )

    @torch.inference_mode()
    def answer(self, task: Task) -> str:
        """The greedy answer to a task."""
        tiles = [
            tile_image(draw_scene(scene), max_tiles=_MAX_TILES[task.detail]).pixels
            for scene in task.scenes
        ]
        ids = self._tokenizer.encode(self._prompt(task, [len(t) for t in tiles])).ids
        inputs: dict[str, Tensor] = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        }
        if tiles:
            inputs["pixel_values"] = torch.cat([to_pixels(torch.from_numpy(t)) for t in tiles])
        output = self._model.generate(**inputs, max_new_tokens=96, do_sample=False)
        return self._tokenizer.decode(output[0, len(ids) :].tolist(), skip_special_tokens=True)
