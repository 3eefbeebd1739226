#!/usr/bin/env python3
"""Measure how far int8 weights move the CPU engine's logits from those of float32.

    python scripts/measure_int8.py FOLDER --text FILE --tokens 256

Computes the same tokens with both and prints, over all positions: the deviation of the logits, the
Kullback-Leibler divergence in nats, the perplexity of the text, how often the likeliest token is the same,
and the margin of the likeliest token where it is not. Needs the memory of the float32
model; the int8 model is loaded after it is freed.
"""

import argparse
import json
from pathlib import Path

import torch
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.engine.cpu.model.decoder import Segment
from internvl_server.engine.cpu.model.kv_cache import KvCache
from internvl_server.engine.cpu.model.support import check_supported
from internvl_server.engine.cpu.model.weights import load_model
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import ModelSettings
from torch import Tensor


def logits_of(checkpoint: Checkpoint, token_ids: Tensor, *, is_int8: bool) -> Tensor:
    """Logits after each of the tokens, float32, (num_tokens, vocab_size)."""
    size = len(token_ids)
    model = load_model(checkpoint, torch.float32, max_model_len=size, is_int8=is_int8)
    kv_cache = KvCache(checkpoint.config.text, size, torch.float32)
    embeds = model.decoder.embed(token_ids)
    logits: Tensor = model.decoder(embeds, [Segment(kv_cache, 0, size)], torch.arange(size))
    return logits


def compare(exact: Tensor, rounded: Tensor, token_ids: Tensor) -> dict[str, float]:
    """Deviation of `rounded` from `exact`, logits of (num_tokens, vocab_size)."""
    difference = (rounded - exact).abs()
    log_exact, log_rounded = exact.log_softmax(dim=-1), rounded.log_softmax(dim=-1)
    divergence = (log_exact.exp() * (log_exact - log_rounded)).sum(dim=-1)
    top = exact.topk(2, dim=-1)
    is_same = rounded.argmax(dim=-1) == top.indices[:, 0]
    margins = (top.values[:, 0] - top.values[:, 1])[~is_same]
    rows = torch.arange(len(token_ids) - 1)
    losses = [-log[rows, token_ids[1:]].mean() for log in (log_exact, log_rounded)]
    measured = {
        "logits_standard_deviation": exact.std(),
        "mean_absolute_deviation": difference.mean(),
        "largest_deviation": difference.max(),
        "mean_divergence_nats": divergence.mean(),
        "largest_divergence_nats": divergence.max(),
        "perplexity_float32": losses[0].exp(),
        "perplexity_int8": losses[1].exp(),
        "same_likeliest_token": is_same.float().mean(),
        "largest_margin_of_another_token": margins.max() if len(margins) else torch.zeros(()),
    }
    return {name: float(f"{value.item():.5g}") for name, value in measured.items()}


def read_tokens(checkpoint: Checkpoint, text: Path | None, num_tokens: int) -> Tensor:
    """The tokens of a text, or random ones."""
    if text is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(checkpoint.config.text.vocab_size, (num_tokens,), generator=generator)
    tokenizer = load_tokenizer(checkpoint.path)
    ids = tokenizer.encode_text(text.read_text(encoding="utf-8"))
    return torch.tensor(ids[:num_tokens], dtype=torch.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, help="a text to compute; without it, random tokens")
    parser.add_argument("--tokens", type=int, default=256)
    args = parser.parse_args()
    checkpoint = load_checkpoint(ModelSettings(path=str(args.folder)))
    check_supported(checkpoint.config, max_model_len=args.tokens)
    token_ids = read_tokens(checkpoint, args.text, args.tokens)
    with torch.inference_mode():
        exact = logits_of(checkpoint, token_ids, is_int8=False)
        rounded = logits_of(checkpoint, token_ids, is_int8=True)
        print(json.dumps(compare(exact, rounded, token_ids), indent=2))


if __name__ == "__main__":
    main()
