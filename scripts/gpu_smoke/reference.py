"""Greedy text of the same prompts by transformers: run as a program, so that its memory goes with it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import torch
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.core import Conversation, Detail, ImageReference, Message, TextPart
from internvl_server.media.pixels import to_pixel_values
from internvl_server.media.preparer import MediaPreparer
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.prompt.builder import PromptBuilder, select_template
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import MediaSettings, ModelSettings

from scripts.gpu_smoke.prompts import PARITY

DEVICE = "cuda"


def conversation_of(messages: list[dict[str, Any]]) -> Conversation:
    def parts(content: Any) -> tuple[TextPart | ImageReference, ...]:
        if isinstance(content, str):
            return (TextPart(content),)
        return tuple(
            TextPart(part["text"])
            if part["type"] == "text"
            else ImageReference(part["image_url"]["url"], Detail.AUTO, None, "messages")
            for part in content
        )

    return Conversation(tuple(Message(m["role"], parts(m["content"])) for m in messages))


async def answers(folder: Path, max_tokens: int) -> dict[str, str]:
    """The server's own prompts and pixels, decoded by transformers."""
    from transformers import AutoModelForImageTextToText

    checkpoint = load_checkpoint(ModelSettings(path=str(folder)))
    tokenizer = load_tokenizer(folder)
    builder = PromptBuilder(
        checkpoint, tokenizer, select_template(checkpoint, tokenizer),
        max_model_len=checkpoint.max_model_len,
    )  # fmt: skip
    media = MediaPreparer(
        MediaSettings(), tile_px=checkpoint.tile_px, auto_max_tiles=checkpoint.max_tiles,
        num_tokens_per_tile=checkpoint.num_tokens_per_tile,
    )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    model = model.eval().to(DEVICE)
    await media.start()
    found = {}
    for name, messages in PARITY.items():
        conversation = conversation_of(messages)
        skeleton = builder.skeleton(conversation)
        room = builder.max_model_len - skeleton.num_tokens - max_tokens
        tiles = await media.prepare(conversation.images, budget=ImageBudget(room, room))
        prompt = builder.build(skeleton, tiles)
        inputs = {"input_ids": torch.tensor([prompt.token_ids], device=DEVICE)}
        if tiles:
            pixels = torch.from_numpy(to_pixel_values(tiles))
            inputs["pixel_values"] = pixels.to(DEVICE, torch.bfloat16)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        output = model.generate(
            **inputs, max_new_tokens=max_tokens, do_sample=False,
            eos_token_id=sorted(checkpoint.stop_token_ids), repetition_penalty=1.0,
        )  # fmt: skip
        found[name] = tokenizer.decode(output[0, prompt.num_tokens :].tolist())
    await media.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(answers(Path(sys.argv[1]), int(sys.argv[2])))))
