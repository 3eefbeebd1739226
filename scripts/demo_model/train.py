"""Train the demo model from random weights and export it.

Phases, each of which continues from its checkpoint if it was interrupted:

1. pool: render and label tiles.
2. vision: train the vision tower's lower layers on labels of patches and small windows.
3. coding: train its upper layers and the projector to write the code of visual tokens.
4. language: train the language model on synthetic visual tokens of that code.
5. drawn: continue with the visual tokens of rendered images.
6. turns: continue with conversations in which every turn sends a new image.
7. export: write the checkpoint folder.

The phases 2-3 and 4 do not depend on each other, so two processes may run them at once.

Usage, from the repository root: ``python -m scripts.demo_model.train --out FOLDER``
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import fields
from pathlib import Path

# Waiting threads that spin would take the cores from other processes. PyTorch reads this when it
# is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from scripts.demo_model.training.trainer import PHASES, Sizes, Trainer


def main() -> None:
    """Run one phase, or all of them in order."""
    options = _parse_options()
    sys.stdout.reconfigure(line_buffering=True)  # progress appears at once in a log file
    torch.set_num_threads(options.threads)
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    trainer = Trainer(options.work, options.out, sizes)
    for phase in PHASES if options.phase == "all" else (options.phase,):
        trainer.run(phase)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phase", choices=(*PHASES, "all"), default="all")
    parser.add_argument("--work", type=Path, default=Path(".demo-train"), help="working folder")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--fresh", action="store_true", help="delete the working folder first")
    parser.add_argument("--threads", type=int, default=1)
    for field in fields(Sizes):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=field.default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
