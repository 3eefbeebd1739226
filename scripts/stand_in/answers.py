"""What the stand-in for the native loop answers: computed by transformers for tiny models, or scripted."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import ModelSettings

from scripts.gpu_smoke.checkpoints import twin_of
from tests.lmdeploy.native import Call, Loop, Plan

__all__ = ["Computed", "scripted"]

_NUM_COMPUTED = 4  # tokens of an answer; the others follow from these
_BLOCK = 64  # tokens; TurboMind's prefix cache keeps whole blocks
_TEXT = "The quick brown fox jumps over the lazy dog, and the picture shows a red circle. "


def scripted(loop: Loop) -> Plan:
    """The same sentence over and over, whatever the prompt: costs next to nothing."""
    return Plan(_sentences(loop.model_path))


@cache
def _sentences(folder: str) -> list[int]:
    tokens = load_tokenizer(Path(folder)).vocabulary.encode(_TEXT)
    return list(itertools.islice(itertools.cycle(tokens), 4096))


@dataclass
class Computed:
    """The first tokens of each answer, and their logits, as transformers computes them in float32.

    Answers of models that transformers has no class for are scripted. Constraints are followed. Where a
    prompt begins like an earlier one, these tokens count as cached.
    """

    loop: Loop
    grammars: dict[Any, str] = field(
        default_factory=dict
    )  # native grammars and what they were made from
    _prompts: list[list[Any]] = field(default_factory=list)

    def __call__(self, call: Call) -> Plan:
        if not self._has_model:
            return scripted(self.loop)
        most = call.config["max_new_tokens"]
        rows = self._rows(call, most)
        if call.grammar is not None:
            ids = list(itertools.islice(self._constrained(call, rows), most))
        else:
            ids = [self._chosen(call, place, row) for place, row in enumerate(rows)]
        return Plan(ids, num_cached=self._num_cached(call), logits=rows)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return load_checkpoint(ModelSettings(path=self.loop.model_path))

    @cached_property
    def _has_model(self) -> bool:
        twin = str(twin_of(Path(self.loop.model_path)))
        return load_checkpoint(ModelSettings(path=twin)).config.layout == "hf"

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForImageTextToText

        folder = twin_of(Path(self.loop.model_path))
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def _rows(self, call: Call, most: int) -> torch.Tensor:
        """A row of logits for each token: the first are the model's, the others random, seeded by them."""
        inputs = {"input_ids": torch.tensor([call.input_ids])}
        if call.items:
            pixels = torch.cat([item.pixels for item in call.items])
            inputs["pixel_values"] = pixels.float()
        found = self._model.generate(
            **inputs, attention_mask=torch.ones_like(inputs["input_ids"]), do_sample=False,
            max_new_tokens=min(most, _NUM_COMPUTED), min_new_tokens=min(most, _NUM_COMPUTED),
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        rows = torch.cat(found.logits)
        seed = int.from_bytes(hashlib.sha256(rows[0].numpy().tobytes()).digest()[:7], "big")
        more = torch.randn(
            most - len(rows), rows.shape[1], generator=torch.Generator().manual_seed(seed)
        )
        more[:, self._checkpoint.image_token_id] = -100.0
        return torch.cat([rows, more * rows.std()])

    def _chosen(self, call: Call, place: int, row: torch.Tensor) -> int:
        if call.config["top_k"] == 1:
            return int(row.argmax())
        seed = call.config["random_seed"] % (1 << 63) + place
        scaled = (row / max(call.config["temperature"], 0.01)).topk(16)
        drawn = torch.multinomial(
            scaled.values.softmax(-1), 1, generator=torch.Generator().manual_seed(seed)
        )
        return int(scaled.indices[drawn])

    def _constrained(self, call: Call, rows: torch.Tensor) -> Iterator[int]:
        """The likeliest tokens that the constraint allows; those that end it first."""
        import xgrammar

        stops = sorted(self._checkpoint.stop_token_ids)
        vocabulary = load_tokenizer(Path(self.loop.model_path)).vocabulary
        tokens = [vocabulary.bytes_of(i) for i in range(vocabulary.size)]
        info = xgrammar.TokenizerInfo(tokens, stop_token_ids=stops)
        compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
        matcher = xgrammar.GrammarMatcher(
            compiler.compile_structural_tag(self.grammars[call.grammar])
        )
        mask = xgrammar.allocate_token_bitmask(1, len(tokens))
        closing = [*stops, *(i for i, token in enumerate(tokens) if token in (b"}", b'"'))]
        for row in rows:
            matcher.fill_next_token_bitmask(mask)
            words = mask[0].tolist()
            allowed = [i for i in range(len(tokens)) if words[i // 32] >> (i % 32) & 1]
            token = next((i for i in closing if i in allowed), None)
            if token is None:
                token = max(allowed, key=lambda i: float(row[i]))
            yield token
            if token in stops:
                return
            matcher.accept_token(token)

    def _num_cached(self, call: Call) -> int:
        if not self.loop.config.enable_prefix_caching:
            return 0
        prompt: list[Any] = list(call.input_ids)
        for item in call.items:
            prompt[item.token_begin] = item.fingerprint
        known = max((_num_common(prompt, earlier) for earlier in self._prompts), default=0)
        self._prompts = [*self._prompts[-255:], prompt]
        return min(known, len(prompt) - 1) // _BLOCK * _BLOCK


def _num_common(one: list[Any], other: list[Any]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
