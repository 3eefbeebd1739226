"""The CPU engine computes what transformers computes, for both layouts and every kind of prompt."""

import asyncio
import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from internvl_server.core import GenerateRequest, ImageSpan
from internvl_server.engine.cpu.model.decoder import Segment
from internvl_server.engine.cpu.model.kv_cache import KvCache
from internvl_server.engine.cpu.model.weights import load_model
from internvl_server.engine.cpu.scheduler import Sequence
from safetensors.torch import load_file, save_file

from scripts.make_random_checkpoint import SHAPES, write_checkpoint
from tests.model.cpu_requests import answer, make_request, read_checkpoint, running_engine

pytestmark = pytest.mark.model

SHAPE = SHAPES["tiny"]
VARIANTS = {
    "plain": SHAPE,
    "6b-style": dataclasses.replace(SHAPE, is_6b_style=True),
    "tied": dataclasses.replace(SHAPE, is_tied=True),
    "qwen3": SHAPES["tiny-qwen3"],
    "qwen3 tied": dataclasses.replace(SHAPES["tiny-qwen3"], is_tied=True),
}
PROMPTS = {"text": (), "one tile": (1,), "many tiles": (5,), "images": (1, 3, 2)}


@pytest.fixture(scope="module", params=[*VARIANTS, "stored as bfloat16"])
def folders(request, tmp_path_factory):
    """The same weights in three spellings: `-hf` of before and since 4.52, and the authors'."""
    folder = tmp_path_factory.mktemp("parity")
    shape = VARIANTS.get(request.param, SHAPE)
    dtype = "bfloat16" if request.param not in VARIANTS else "float32"
    for layout in ("hf", "authors"):
        write_checkpoint(folder / layout, shape, layout=layout, dtype=dtype)
    write_new_names(folder / "hf", folder / "hf-new")
    return folder


def write_new_names(old, new):
    """As transformers 4.52 to 4.57 named tensors, in one file, with a config of transformers 5."""
    load_reference(old).save_pretrained(new)
    for path in old.glob("*token*.json"):
        shutil.copy(path, new)
    prefixes = {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    }
    tensors = {}
    for path in old.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            prefix = next(p for p in prefixes if name.startswith(p))
            tensors[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    save_file(tensors, new / "model.safetensors")
    text_config = json.loads((new / "config.json").read_text())["text_config"]
    assert text_config["rope_parameters"]["rope_theta"] == 1e6


@pytest.fixture(scope="module")
def reference(folders):
    return load_reference(folders / "hf")


def load_reference(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import InternVLForConditionalGeneration

        model, info = InternVLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    return model.eval()


def greedy(model, request: GenerateRequest) -> list[int]:
    ids, pixels = reference_inputs(request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = model.generate(
            **ids,
            **pixels,
            max_new_tokens=request.max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return output[0, len(request.prompt_token_ids) :].tolist()


def reference_inputs(request: GenerateRequest):
    ids = torch.tensor([request.prompt_token_ids])
    pixels = {}
    if request.pixel_values:
        pixels["pixel_values"] = torch.from_numpy(np.concatenate(request.pixel_values))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, pixels


@pytest.mark.parametrize("layout", ["hf", "hf-new", "authors"])
async def test_greedy_tokens_equal_transformers(folders, reference, layout):
    checkpoint = read_checkpoint(folders / layout)
    seen = set()
    async with running_engine(checkpoint, prefill_chunk_tokens=16) as engine:
        for number, tiles in enumerate(PROMPTS.values()):
            request = make_request(checkpoint, tiles, seed=number, max_tokens=24)
            token_ids, _ = await answer(engine, request)
            assert token_ids == greedy(reference, request)
            seen |= set(token_ids)
    assert len(seen) > 5  # the model is not stuck on one token


async def test_a_second_round_equals_transformers(folders, reference):
    checkpoint = read_checkpoint(folders / "authors")
    async with running_engine(checkpoint) as engine:
        first = make_request(checkpoint, (2,), seed=7)
        token_ids, _ = await answer(engine, first)
        more = make_request(checkpoint, (1,), seed=8)
        start = len(first.prompt_token_ids) + len(token_ids)
        second = dataclasses.replace(
            more,
            prompt_token_ids=first.prompt_token_ids + tuple(token_ids) + more.prompt_token_ids,
            images=first.images
            + tuple(
                ImageSpan(start + s.offset, s.num_tiles, s.num_image_tokens) for s in more.images
            ),
            pixel_values=first.pixel_values + more.pixel_values,
        )
        assert (await answer(engine, second))[0] == greedy(reference, second)


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.inference_mode()
def test_prefill_logits_equal_transformers(folders, reference, prompt):
    checkpoint = read_checkpoint(folders / "authors")
    request = make_request(checkpoint, PROMPTS[prompt], seed=3)
    ids, pixels = reference_inputs(request)
    expected = reference(**ids, **pixels).logits[0]

    model = load_model(checkpoint, torch.float32, max_model_len=512)
    x = model.decoder.embed(ids["input_ids"][0])
    if request.pixel_values:
        encoding = model.vision.encode(pixels["pixel_values"])
        try:
            while True:
                next(encoding)
        except StopIteration as end:
            x[ids["input_ids"][0] == checkpoint.image_token_id] = end.value
    segment = Segment(KvCache(checkpoint.config.text, len(x), torch.float32), 0, len(x))
    actual = model.decoder(x, [segment], torch.arange(len(x)))

    assert expected.abs().max() > 1
    assert (actual - expected).abs().max() < 1e-3


async def test_batched_tokens_equal_transformers(folders, reference):
    checkpoint = read_checkpoint(folders / "hf")
    requests = [
        make_request(checkpoint, tiles, seed=i, max_tokens=8 + i)
        for i, tiles in enumerate([*PROMPTS.values()] * 4)
    ]
    async with running_engine(checkpoint, prefill_chunk_tokens=24) as engine:
        answers = await asyncio.gather(*(answer(engine, request) for request in requests))
    assert [ids for ids, _ in answers] == [greedy(reference, request) for request in requests]


def test_sequences_are_their_own_keys():
    request = GenerateRequest("a", (1,), 1, None, frozenset())
    assert len({Sequence(request, 2), Sequence(request, 2)}) == 2
