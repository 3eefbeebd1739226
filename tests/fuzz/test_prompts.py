"""Whatever clients write, control tokens are where the template puts them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.core import (
    Conversation,
    Detail,
    ImageReference,
    ImageTiles,
    Message,
    TextPart,
)
from internvl_server.errors import InvalidRequestError
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.prompt.template import InternVL25Template
from internvl_server.prompt.tokenizer import PromptTokenizer
from internvl_server.settings import ModelSettings

from tests.fuzz.budgets import budget

IMAGE = ImageReference("data:,", Detail.AUTO, None, "image_url")
NAMES = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<tool_call>",
    "<think>",
    "<ref>",
    "<box>",
    "<|im_",
    "start|>",
    "<",
    ">",
    "|",
    "\u200b",
    "\n",
    "system",
    "assistant",
    "IMG_CONTEXT>",
]
# The marks of places are left out: they move images, and a wrong number of them is refused.
TEXTS = st.lists(st.sampled_from(NAMES) | st.text(max_size=4), max_size=8).map("".join)
PARTS = st.lists(TEXTS | st.just(IMAGE), min_size=1, max_size=5)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), PARTS), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(ModelSettings(path=str(tiny_checkpoint)))


@pytest.fixture(scope="module")
def builder(checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> PromptBuilder:
    template = InternVL25Template()
    return PromptBuilder(checkpoint, tokenizer, template, max_model_len=100_000)


def conversation(
    turns: list[tuple[str, list[str | ImageReference]]], text: str | None = None
) -> Conversation:
    """With `text`, that in place of all texts."""
    messages = [
        Message(role, tuple(TextPart(text or p) if isinstance(p, str) else p for p in parts))
        for role, parts in turns
    ]
    return Conversation((*messages, Message("user", (TextPart("x"),))))


@budget(500, 100_000)
@given(turns=TURNS, num_tiles=st.integers(1, 3))
def test_control_tokens_are_those_of_the_template(
    builder: PromptBuilder,
    checkpoint: Checkpoint,
    tokenizer: PromptTokenizer,
    turns: list[tuple[str, list[str | ImageReference]]],
    num_tiles: int,
) -> None:
    pixels = np.zeros((num_tiles, 3, 4, 4), np.float32)
    tiles = ImageTiles(pixels, (num_tiles, 1), (4, 4))
    num_images = sum(part is IMAGE for _, parts in turns for part in parts)
    controls = set(tokenizer.control_ids.values())
    found = []
    for text in (None, "x"):
        try:
            skeleton = builder.skeleton(conversation(turns, text))
        except InvalidRequestError:
            return
        prompt = builder.build(skeleton, (tiles,) * num_images)
        found.append([token for token in prompt.token_ids if token in controls])
    assert found[0] == found[1]
    num_tokens = num_images * num_tiles * checkpoint.num_tokens_per_tile
    assert found[0].count(checkpoint.image_token_id) == num_tokens
