"""Tokenizers that begin every prompt with a token, as InternLM3's of the 9B: ids beside LMDeploy's."""

import json
import string

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from scripts.make_random_checkpoint import ADDED_TOKENS, NOT_SPECIAL
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


@pytest.fixture(params=["byte level", "first", "always", "never"])
def folder(request, tmp_path):
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


@pytest.mark.parametrize("case", CASES)
async def test_a_conversation_begins_as_in_lmdeploy(loop, folder, case):
    calls = []
    for start in (upstream, ours):
        async with start(folder) as client:
            loop.calls.clear()
            response = await ask(client, CASES[case], max_tokens=4)
            assert response.status_code == 200, response.text
            calls.append(loop.calls[0])
    assert calls[1].input_ids[0] == BEGIN_ID
    assert calls[1].input_ids == calls[0].input_ids


async def test_a_text_begins_as_in_lmdeploy(loop, folder):
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
    assert counts == [calls[1].input_ids, calls[1].input_ids, calls[1].input_ids[1:]]
