"""The CPU engine beside transformers, in separate processes, in turn."""

import json
import os
import subprocess
from pathlib import Path

from scripts.load.figures import markdown_table, median, ratio

__all__ = ["compare"]

_SYSTEMS = {
    "transformers": ("--engine", "transformers"),
    "float32": (),
    "int8": ("--quantization", "int8"),
}
_ROWS = {
    "256 tokens of text, to the first token": "text_first",
    "a token, alone": "token",
    "a token, 8 streams": "token_of_streams",
    "an image of one tile, to the first token": "image_first",
    "a second question about the image": "image_second_turn",
    "loading": "load",
    "memory without mapped files, GiB": "anonymous_gib",
}
# Without a batch, transformers computes one stream after another.
_TIMES = ("text_first", "token", "token_of_streams", "image_first", "image_second_turn")


def compare(python: str, shape: str, work: Path, rounds: int) -> str:
    """Tables of medians, and of their shares of transformers' medians.

    Args:
        python: An interpreter with the extras `cpu` and `test`.
        shape: Of the random weights; see `scripts/make_random_checkpoint.py`.
        work: Gets the checkpoint, which is kept.
        rounds: Of each system.
    """
    folder = work / f"random-{shape}"
    if not folder.exists():
        made = ("--shape", shape, "--layout", "hf", "--out", str(folder))
        _run(python, "scripts/make_random_checkpoint.py", *made)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _SYSTEMS}
    for _ in range(rounds):
        for name, options in _SYSTEMS.items():
            words = (str(folder), "--dtype", "float32", "--repeats", "1", *options)
            found[name].append(
                json.loads(_run(python, "-m", "tests.model.measure_cpu_engine", *words))
            )
    wall = _table(found, dict(_ROWS), "seconds")
    cpu = {title: f"{name}_cpu" for title, name in _ROWS.items() if name in _TIMES}
    return f"{wall}\n\n{_table(found, cpu, 'seconds of processor time')}"


def _run(python: str, *words: str) -> str:
    # Libraries for LMDeploy's environment are none of the other's.
    kept = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run([python, *words], env=kept, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _table(found: dict[str, list[dict[str, float]]], rows: dict[str, str], title: str) -> str:
    lines: list[list[object]] = []
    for row, figure in rows.items():
        values = {name: median(each[figure] for each in every) for name, every in found.items()}
        reference = values["transformers"]
        shares = [
            ratio(value, reference) for name, value in values.items() if name != "transformers"
        ]
        lines.append([row, *values.values(), *shares])
    shares_of = [f"{name} / transformers" for name in found if name != "transformers"]
    return markdown_table([title, *found, *shares_of], lines)
