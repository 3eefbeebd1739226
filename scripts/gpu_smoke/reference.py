"""Compares logits with those of transformers for the same ids and pixels: a program, so that its memory goes.

    python -m scripts.gpu_smoke.reference CHECKPOINT DUMP

Prints one line of JSON: the least cosine; the share of prompts whose likeliest tokens are equal, with ties
and strictly; and the largest distance of log probabilities among the twenty likeliest.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["main"]

_NUM_LIKELY = 20
_TIE = 0.125  # the step of a bfloat16 between 16 and 32: logits that are nearer may change places


@torch.inference_mode()
def main(folder: Path, dump: Path) -> dict[str, float]:
    from transformers import AutoModelForImageTextToText

    device = "cuda" if torch.cuda.is_available() else "cpu"
    entries: list[dict[str, Any]] = torch.load(dump)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval().to(device)
    cosines, behind, distances = [], [], []
    for entry in entries:
        inputs = {"input_ids": torch.tensor([entry["input_ids"]], device=device)}
        if entry["pixels"] is not None:
            inputs["pixel_values"] = entry["pixels"].to(device, model.dtype)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        output = model(**inputs, logits_to_keep=1)
        theirs, ours = output.logits[0, -1].float().cpu(), entry["logits"]
        cosines.append(float(torch.nn.functional.cosine_similarity(theirs, ours, dim=0)))
        behind.append(float(theirs.max() - theirs[ours.argmax()]))
        likely = theirs.topk(_NUM_LIKELY).indices
        apart = theirs.log_softmax(-1)[likely] - ours.log_softmax(-1)[likely]
        distances.append(float(apart.abs().max()))
    return {
        "cosine": min(cosines),
        "equal": sum(value <= _TIE for value in behind) / len(entries),
        "strictly": sum(value == 0 for value in behind) / len(entries),
        "distance": max(distances),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
