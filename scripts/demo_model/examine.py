"""Examine a demo model: questions of every kind about held-out scenes, exact answers only.

Asks a server that it starts itself (the default), a running server (``--base-url``), or
transformers without any server (``--offline``). Prints a table and exits with 1 if a required
score is missed: 95 % exact answers for each of the six required kinds, and for a tiny shape 90 %
with ``detail: high`` but not with ``detail: low``.

Usage, from the repository root: ``python -m scripts.demo_model.examine [--scenes 500]``
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from internvl_server.settings.model import DEMO_MODEL

from scripts.demo_model.exam.http_model import HttpModel, demo_server
from scripts.demo_model.exam.scores import Score, format_mistakes, format_table, verdict
from scripts.demo_model.exam.tasks import ALL_KINDS, Task, make_task

Answerer = Callable[[Task], str]


def main() -> int:
    """Run the examination; return 0 if every required score is reached."""
    options = _parse_options()
    scores: dict[str, Score] = {}
    with _answerer(options) as answer:
        for kind in options.kinds:
            started = time.monotonic()
            scores[kind] = score = _examine(answer, kind, options)
            seconds = time.monotonic() - started
            print(f"{kind}: {score.share:.1%} of {score.total} in {seconds:.0f} s", flush=True)
    print(*format_mistakes(scores, options.show), "", format_table(scores), sep="\n")
    return int(any(verdict(kind, score) is False for kind, score in scores.items()))


@contextlib.contextmanager
def _answerer(options: argparse.Namespace) -> Iterator[Answerer]:
    if options.offline:
        from scripts.demo_model.exam.offline_model import OfflineModel

        options.concurrency = 1
        yield OfflineModel(options.folder or DEMO_MODEL).answer
    elif options.base_url:
        yield HttpModel(options.base_url, options.model).answer
    else:
        with demo_server(options.folder) as base_url:
            yield HttpModel(base_url, options.model).answer


def _examine(answer: Answerer, kind: str, options: argparse.Namespace) -> Score:
    tasks = [make_task(kind, index, seed=options.seed) for index in range(options.scenes)]
    score = Score()
    with ThreadPoolExecutor(options.concurrency) as executor:
        for task, text in zip(tasks, executor.map(answer, tasks), strict=True):
            score.add(task, text)
    return score


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", help="address of a running server, ending in /v1")
    parser.add_argument("--model", help="model name; default: the first one of the server")
    parser.add_argument("--offline", action="store_true", help="use transformers, no server")
    parser.add_argument("--folder", type=Path, help="checkpoint; default: the bundled model")
    parser.add_argument("--scenes", type=int, default=500, help="questions of each kind")
    parser.add_argument("--kinds", nargs="+", choices=ALL_KINDS, default=list(ALL_KINDS))
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", default="exam", help="another seed gives another examination")
    parser.add_argument("--show", type=int, default=3, help="wrong answers to print of each kind")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
