"""Train the bundled demo model from nothing and export it to server/internvl_server/demo_model.

Phases, each of which goes on from its checkpoint if it was interrupted:

1. pool: draw and label tiles.
2. vision: teach the vision tower's lower layers what every patch and small window shows.
3. coding: teach its upper layers and the projector to write the code of visual tokens.
4. language: teach the language model to talk about invented tokens of that code.
5. drawn: go on with the tokens of drawn pictures.
6. export: write the checkpoint folder.

Vision and language do not need each other before phase 5, so two processes may run at once.

Usage: ``python scripts/train_demo_model.py [--phase all] [--work .demo-train] [--fresh]``
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

# Waiting threads that spin take the cores from other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch  # noqa: E402
from demo_world.coding import start_coding, train_coding, upper_part  # noqa: E402
from demo_world.drawn import DrawnPictures, MixedPictures  # noqa: E402
from demo_world.export import export_model  # noqa: E402
from demo_world.language import Plan, train_language  # noqa: E402
from demo_world.modelling import build_config, build_model, lower_part  # noqa: E402
from demo_world.pool import fill_pool  # noqa: E402
from demo_world.symbols import InventedPictures, start_language  # noqa: E402
from demo_world.tokenizer import build_tokenizer  # noqa: E402
from demo_world.vision import train_vision  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch import nn  # noqa: E402
from transformers import InternVLForConditionalGeneration  # noqa: E402

PHASES = ("pool", "vision", "coding", "language", "drawn", "export")
HELD_OUT_SHARDS = 3


def fresh_model(tokenizer: Tokenizer) -> InternVLForConditionalGeneration:
    """The untrained model; the same one every time."""
    torch.manual_seed(0)
    config = build_config(
        tokenizer.get_vocab_size(),
        image_token=tokenizer.token_to_id("<IMG_CONTEXT>"),
        eos=tokenizer.token_to_id("<|im_end|>"),
        pad=tokenizer.token_to_id("<|endoftext|>"),
    )
    model = build_model(config)
    start_language(model, tokenizer)
    return model


class Trainer:
    """Carries out the phases; what earlier ones made is read from their checkpoints."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._work = options, options.work
        self._pool = options.work / "pool"
        self._tokenizer = build_tokenizer()
        self._model = fresh_model(self._tokenizer)

    def _restore(self, name: str, key: str, module: nn.Module) -> None:
        module.load_state_dict(torch.load(self._work / f"{name}.pt", weights_only=True)[key])

    def _restore_lower(self) -> None:
        self._restore("vision", "trained", lower_part(self._model.model))

    def pool(self) -> None:
        """Draw and label tiles."""
        fill_pool(self._pool, name="held-out", shards=HELD_OUT_SHARDS)
        fill_pool(self._pool, name="train", shards=self._options.pool_shards)

    def vision(self) -> None:
        """Train the vision tower's lower layers."""
        train_vision(
            self._model.model,
            self._pool,
            self._work / "vision.pt",
            steps=self._options.vision_steps,
        )

    def coding(self) -> None:
        """Train its upper layers and the projector."""
        self._restore_lower()
        start_coding(self._model.model)
        train_coding(
            self._model.model,
            self._pool,
            self._work / "coding.pt",
            shards=self._options.coding_shards,
            steps=self._options.coding_steps,
        )

    def language(self) -> None:
        """Train the language model on invented pictures."""
        steps = self._options.language_steps
        train_language(
            self._model,
            self._tokenizer,
            (InventedPictures("train"), InventedPictures("held-out")),
            self._work / "language.pt",
            Plan(steps, early=steps // 4, matrix_rate=2.5e-3, other_rate=1.5e-3),
        )

    def drawn(self) -> None:
        """Train it on drawn pictures; half of them stay invented."""
        self._restore_lower()
        self._restore("coding", "upper", upper_part(self._model.model))
        self._restore("language", "language", self._model.model.language_model)
        shards = {"train": self._options.drawn_shards, "held-out": HELD_OUT_SHARDS}
        train, held_out = (
            DrawnPictures(self._model.model, self._pool, name, shards[name])
            for name in ("train", "held-out")
        )
        mixed = MixedPictures(train, InventedPictures("more"), 0.5, "mixed")
        train_language(
            self._model,
            self._tokenizer,
            (mixed, held_out),
            self._work / "drawn.pt",
            Plan(self._options.drawn_steps, early=0, matrix_rate=1.2e-3, other_rate=7e-4),
        )

    def export(self) -> None:
        """Assemble the model from the checkpoints and write it."""
        self._restore_lower()
        self._restore("coding", "upper", upper_part(self._model.model))
        self._restore("drawn", "language", self._model.model.language_model)
        export_model(self._model, self._tokenizer, self._options.out)
        print(f"exported to {self._options.out}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phase", choices=(*PHASES, "all"), default="all")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".demo-train", help="pool and checkpoints"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "server" / "internvl_server" / "demo_model"
    )
    parser.add_argument("--fresh", action="store_true", help="forget earlier checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pool-shards", type=int, default=80, help="of 200 scenes each")
    parser.add_argument("--coding-shards", type=int, default=80, help="of those, for coding")
    parser.add_argument("--drawn-shards", type=int, default=40, help="of those, for drawn")
    parser.add_argument("--vision-steps", type=int, default=5700)
    parser.add_argument("--coding-steps", type=int, default=4000)
    parser.add_argument("--language-steps", type=int, default=2400)
    parser.add_argument("--drawn-steps", type=int, default=1600)
    return parser.parse_args()


def main() -> None:
    """Run one phase, or all of them in order."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options)
    for phase in PHASES if options.phase == "all" else (options.phase,):
        getattr(trainer, phase)()


if __name__ == "__main__":
    main()
