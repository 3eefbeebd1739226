from pathlib import Path

import numpy as np
import pytest
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.core import Conversation, Detail, ImageReference, ImageTiles, Message, TextPart
from internvl_server.errors import ContextLengthExceededError
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT, InternVL25Template
from internvl_server.prompt.tokenizer import PromptTokenizer
from internvl_server.settings import ModelSettings

IMAGE = ImageReference("data:,", Detail.AUTO, None, "messages[0].content[0].image_url")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(ModelSettings(path=str(tiny_checkpoint)))


@pytest.fixture(scope="module")
def builder(checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> PromptBuilder:
    template = InternVL25Template()
    return PromptBuilder(checkpoint, tokenizer, template, max_model_len=checkpoint.max_model_len)


def tiles(num_tiles: int) -> ImageTiles:
    pixels = np.zeros((num_tiles, 3, 4, 4), np.float32)
    return ImageTiles(pixels, (num_tiles, 1), (4, 4))


def asked(*parts: str | ImageReference) -> Conversation:
    content = tuple(TextPart(p) if isinstance(p, str) else p for p in parts)
    return Conversation((Message("user", content),))


def test_ids_are_those_of_the_whole_rendered_string(
    builder: PromptBuilder, checkpoint: Checkpoint, tokenizer: PromptTokenizer
) -> None:
    conversation = asked(IMAGE, "\n  What is this?\n", IMAGE, "And that?")
    prompt = builder.build(builder.skeleton(conversation), (tiles(1), tiles(3)))
    per_tile = checkpoint.num_tokens_per_tile
    images = ["<img>" + "<IMG_CONTEXT>" * per_tile * n + "</img>" for n in (1, 3)]
    whole = (
        f"<|im_start|>system\n{DEFAULT_SYSTEM_TEXT}<|im_end|>\n<|im_start|>user\n"
        f"Image-1: {images[0]}\n\n  What is this?\nImage-2: {images[1]}\nAnd that?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert list(prompt.token_ids) == tokenizer._full.encode(whole, add_special_tokens=False).ids


def test_image_tokens_are_exactly_where_images_are(
    builder: PromptBuilder, checkpoint: Checkpoint
) -> None:
    conversation = asked("<IMG_CONTEXT><img></img>", IMAGE, "<IMG_CONTEXT>")
    prompt = builder.build(builder.skeleton(conversation), (tiles(5),))
    positions = [i for i, t in enumerate(prompt.token_ids) if t == checkpoint.image_token_id]
    (span,) = prompt.images
    assert positions == list(range(span.offset, span.offset + span.num_image_tokens))
    assert span.num_image_tokens == 5 * checkpoint.num_tokens_per_tile


def test_skeleton_counts_all_but_the_image_tokens(
    builder: PromptBuilder, checkpoint: Checkpoint
) -> None:
    skeleton = builder.skeleton(asked(IMAGE, "What?", IMAGE))
    prompt = builder.build(skeleton, (tiles(2), tiles(1)))
    assert prompt.num_tokens == skeleton.num_tokens + 3 * checkpoint.num_tokens_per_tile


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(
    builder: PromptBuilder, checkpoint: Checkpoint
) -> None:
    skeleton = builder.skeleton(asked(IMAGE))
    num_tiles = checkpoint.max_model_len // checkpoint.num_tokens_per_tile
    prompt = builder.build(skeleton, (tiles(num_tiles),))
    with pytest.raises(ContextLengthExceededError) as caught:
        builder.resolve_max_tokens(prompt, None, 100)
    message = caught.value.message
    assert str(checkpoint.max_model_len) in message
    assert str(prompt.num_tokens) in message
    assert str(prompt.images[0].num_image_tokens) in message
    assert "shorten it, or request less image detail" in message


def test_max_tokens_is_applied_refused_or_lowered(
    builder: PromptBuilder, checkpoint: Checkpoint
) -> None:
    prompt = builder.build(builder.skeleton(asked("hi")), ())
    room = checkpoint.max_model_len - prompt.num_tokens
    assert builder.resolve_max_tokens(prompt, room, 10) == room
    assert builder.resolve_max_tokens(prompt, None, 10) == 10
    assert builder.resolve_max_tokens(prompt, None, 10**9) == room
    with pytest.raises(ContextLengthExceededError) as caught:
        builder.resolve_max_tokens(prompt, room + 1, 10)
    assert caught.value.message.endswith(f"shorten the prompt or lower 'max_tokens' to {room}.")


def test_too_long_text_is_refused_before_tokenising(
    builder: PromptBuilder, checkpoint: Checkpoint
) -> None:
    with pytest.raises(ContextLengthExceededError):
        builder.check_length_of_text(asked("x" * (128 * checkpoint.max_model_len + 1)))
    builder.check_length_of_text(asked("x" * 128 * checkpoint.max_model_len))
