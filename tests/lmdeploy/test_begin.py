"""Tokenizers of the other text models of the family: ids beside LMDeploy's.

Those of InternLM2 and InternLM3 begin every prompt with a token. Qwen3's does not, and has more added tokens.
"""

import json
import string

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from scripts.make_random_checkpoint import ADDED_TOKENS, NOT_SPECIAL, SHAPES
from tests.lmdeploy.checkpoints import change, make_checkpoint
from tests.lmdeploy.test_differences import CASES
from tests.lmdeploy.upstream import ask, ours, upstream

BEGIN, BEGIN_ID = "<|vision_start|>", 329  # any special token of the tiny checkpoint


def sentencepiece(scheme: str) -> Tokenizer:
    """As Llama's: spaces are written as U+2581, other characters that it lacks as bytes."""
    tokens = ["\u2581", *(f"<0x{byte:02X}>" for byte in range(256)), *string.ascii_letters]
    tokens += [*string.digits, "."]
    assert len(tokens) == 320
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens(
        [AddedToken(x, special=x not in NOT_SPECIAL, normalized=False) for x in ADDED_TOKENS]
    )
    return tokenizer


def internlm2() -> Tokenizer:
    """As that of its published versions in transformers' layout: no space is written before a text."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [*string.ascii_letters, *string.digits[:8]]
    assert len(tokens) == 320
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    for names in (tokens[:3], SHAPES["tiny-internlm2"].added_tokens):
        tokenizer.add_tokens([AddedToken(x, special=True, normalized=False) for x in names])
    return tokenizer


KINDS = ("byte level", "first", "always", "never", "internlm2", "qwen3", "qwen3 of the authors")


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    if request.param.startswith("qwen3"):
        layout = "authors" if request.param.endswith("authors") else "hf"
        return make_checkpoint(tmp_path / "3.5", layout, shape=SHAPES["tiny-qwen3"])
    if request.param == "internlm2":
        folder = make_checkpoint(tmp_path / "2.5", "hf", shape=SHAPES["tiny-internlm2"])
        internlm2().save(str(folder / "tokenizer.json"))
        change(
            folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", bos_token="<s>",
            eos_token="</s>", unk_token="<unk>", pad_token="</s>", legacy=False,
        )  # fmt: skip
        return folder
    folder = make_checkpoint(tmp_path / "9b", "hf")
    path = folder / "tokenizer.json"
    is_bytes = request.param == "byte level"
    tokenizer = Tokenizer.from_file(str(path)) if is_bytes else sentencepiece(request.param)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, BEGIN_ID)]
    )
    tokenizer.save(str(path))
    change(
        folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", bos_token=BEGIN
    )
    assert json.loads(path.read_text())["post_processor"]
    return folder


@pytest.fixture
def begin(request, folder):
    """The ids with which every prompt begins."""
    kind = request.node.callspec.params["folder"]
    return [] if kind.startswith("qwen3") else [1] if kind == "internlm2" else [BEGIN_ID]


@pytest.mark.parametrize("case", CASES)
async def test_a_conversation_begins_as_in_lmdeploy(loop, folder, case, begin):
    calls = []
    for start in (upstream, ours):
        async with start(folder) as client:
            loop.calls.clear()
            response = await ask(client, CASES[case], max_tokens=4)
            assert response.status_code == 200, response.text
            calls.append(loop.calls[0])
    assert calls[1].input_ids[: len(begin)] == begin
    assert calls[1].input_ids == calls[0].input_ids


async def test_a_text_begins_as_in_lmdeploy(loop, folder, begin):
    body = {"model": "m", "prompt": "Once upon a time.", "max_tokens": 4}
    calls = []
    for start in (upstream, ours):
        async with start(folder) as client:
            loop.calls.clear()
            response = await client.post("/v1/completions", json=body)
            assert response.status_code == 200, response.text
            calls.append(loop.calls[0])
            if start is ours:
                counts = [
                    (await client.post("/tokenize", json=asked)).json()["tokens"]
                    for asked in (
                        {"prompt": body["prompt"]},
                        {"prompt": body["prompt"], "add_special_tokens": True},
                        {"prompt": body["prompt"], "add_special_tokens": False},
                    )
                ]
    assert calls[1].input_ids == calls[0].input_ids
    assert counts == [calls[1].input_ids, calls[1].input_ids, calls[1].input_ids[len(begin) :]]
