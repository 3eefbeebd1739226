"""Train the bundled demo model from nothing and export it to server/demo_model.

Phases, each of which goes on from its checkpoint if it was interrupted:

1. pool: draw and label tiles.
2. vision: teach the vision tower and projector what every visual token shows.
3. features: compute and keep the visual tokens of many pictures.
4. language: teach the language model to talk about them.
5. export: write the checkpoint folder.

Usage: ``python scripts/train_demo_model.py [--phase all] [--work .demo-train] [--fresh]``
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

# Waiting threads that spin take the cores from the process that draws.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch  # noqa: E402
from demo_world.export import export_model  # noqa: E402
from demo_world.features import load_library  # noqa: E402
from demo_world.language import Plan, train_language  # noqa: E402
from demo_world.modelling import build_config, build_model  # noqa: E402
from demo_world.pool import fill_pool  # noqa: E402
from demo_world.tokenizer import build_tokenizer  # noqa: E402
from demo_world.vision import Heads, train_vision  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import InternVLForConditionalGeneration  # noqa: E402

# Visual tokens leave the vision phase much larger than words begin; layers change large ones little.
FEATURE_SCALE = 0.25
PHASES = ("pool", "vision", "features", "language", "export")


def fresh_model(tokenizer: Tokenizer) -> InternVLForConditionalGeneration:
    """The untrained model; the same one every time."""
    torch.manual_seed(0)
    config = build_config(
        tokenizer.get_vocab_size(),
        image_token=tokenizer.token_to_id("<IMG_CONTEXT>"),
        eos=tokenizer.token_to_id("<|im_end|>"),
        pad=tokenizer.token_to_id("<|endoftext|>"),
    )
    return build_model(config)


def load_vision(model: InternVLForConditionalGeneration, checkpoint: Path) -> None:
    """Put the trained vision tower and projector in place."""
    trained = torch.nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector])
    trained.load_state_dict(torch.load(checkpoint, weights_only=True)["trained"])
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.linear_2.parameters():
            parameter *= FEATURE_SCALE


def run_language(
    model: InternVLForConditionalGeneration, tokenizer: Tokenizer, options: argparse.Namespace
) -> None:
    """Compute the visual tokens if need be, then train the language model on them."""
    work = options.work
    load_vision(model, work / "vision.pt")
    libraries = tuple(
        load_library(
            model.model,
            work / "pool",
            work / f"{name}.features",
            name=name,
            scale=scale,
            rounds=rounds,
        )
        for name, scale, rounds in (("train", 0.75, 2), ("held-out", 0.05, 1))
    )
    if options.phase != "features":
        heads = Heads()
        heads.load_state_dict(torch.load(work / "vision.pt", weights_only=True)["heads"])
        train_language(
            model,
            tokenizer,
            libraries,
            work / "language.pt",
            heads,
            Plan(options.language_steps, FEATURE_SCALE),
        )


def run_export(
    model: InternVLForConditionalGeneration, tokenizer: Tokenizer, options: argparse.Namespace
) -> None:
    """Assemble the model from the checkpoints and write it."""
    load_vision(model, options.work / "vision.pt")
    language = torch.load(options.work / "language.pt", weights_only=True)["language"]
    model.model.language_model.load_state_dict(language)
    export_model(model, tokenizer, options.out)
    print(f"exported to {options.out}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phase", choices=(*PHASES, "all"), default="all")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".demo-train", help="pool and checkpoints"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "server" / "demo_model")
    parser.add_argument("--fresh", action="store_true", help="forget earlier checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pool-shards", type=int, default=56, help="of 200 scenes each")
    parser.add_argument("--vision-steps", type=int, default=5700)
    parser.add_argument("--language-steps", type=int, default=4000)
    return parser.parse_args()


def main() -> None:
    """Run one phase, or all of them in order."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = fresh_model(tokenizer)
    wanted = PHASES if options.phase == "all" else (options.phase,)
    if "pool" in wanted:
        fill_pool(options.work / "pool", name="held-out", shards=3)
        fill_pool(options.work / "pool", name="train", shards=options.pool_shards)
    if "vision" in wanted:
        train_vision(
            model.model,
            options.work / "pool",
            options.work / "vision.pt",
            steps=options.vision_steps,
        )
    if "features" in wanted or "language" in wanted:
        run_language(model, tokenizer, options)
    if "export" in wanted:
        run_export(model, tokenizer, options)


if __name__ == "__main__":
    main()
