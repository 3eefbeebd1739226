"""A checkpoint with the tiles, tokens and context of a real one, but hardly any weights."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers, trainers

from scripts.gpu_smoke.checkpoints import complete
from scripts.make_random_checkpoint import SHAPES, write_checkpoint

__all__ = ["make_model"]

_ROOT = Path(__file__).parents[2]
_NUM_TOKENS = 8192


def make_model(folder: Path, tokenizer_file: Path | None) -> Path:
    """Write it unless it is there.

    Args:
        folder: For the checkpoint.
        tokenizer_file: A `tokenizer.json` of Qwen2.5 whose vocabulary to take; by default one is learnt from
            this repository's Markdown and Python files.
    """
    if (folder / "processor_config.json").exists():
        return folder
    tokenizer = Tokenizer.from_file(str(tokenizer_file)) if tokenizer_file else None
    size = tokenizer.get_vocab_size(with_added_tokens=False) if tokenizer else _NUM_TOKENS
    shape = replace(
        SHAPES["tiny"], num_base_tokens=size, tile_px=448, max_len=40_960, vision_layers=1, layers=1
    )
    write_checkpoint(folder, shape, layout="hf", dtype="bfloat16", seed=0)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    learnt = json.loads((tokenizer or _learnt(path)).to_str())["model"]
    content["model"] |= {"vocab": learnt["vocab"], "merges": learnt["merges"]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    complete(folder, shape, "hf")
    return folder


def _learnt(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    fresh = Tokenizer(type(tokenizer.model)())
    fresh.pre_tokenizer = tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=_NUM_TOKENS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    fresh.train_from_iterator(_texts(), trainer)
    assert fresh.get_vocab_size() == _NUM_TOKENS, "too little text"
    return fresh


def _texts() -> Iterator[str]:
    for pattern in ("**/*.md", "**/*.py"):
        for path in sorted((_ROOT / "server").glob(pattern)):
            yield path.read_text(encoding="utf-8")
