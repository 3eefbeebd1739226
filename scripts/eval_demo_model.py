#!/usr/bin/env python3
"""Examine the bundled demo model: held-out scenes, every kind of question, exact answers.

Asks a running server (``--base-url``), a server that it starts itself (the default), or
transformers without any server (``--offline``). Prints a table and ends with 1 if the bar is
missed: 95 % exact answers for each of the six kinds, and for a tiny shape 90 % with
``detail: high`` but not with ``detail: low``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from demo_world.drawing import encode  # noqa: E402
from demo_world.exam import ALL_KINDS, Score, Task, make_task, mistakes, table  # noqa: E402
from demo_world.scenes import Scene  # noqa: E402

Answerer = Callable[[Task], str]


def _image_part(scene: Scene, detail: str) -> dict[str, object]:
    data, media_type = encode(scene)
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _messages(task: Task) -> list[dict[str, object]]:
    images = [_image_part(scene, task.detail) for scene in task.scenes]
    question: dict[str, object] = {"type": "text", "text": task.question}
    if task.earlier:
        first = [*images, {"type": "text", "text": task.earlier.question}]
        return [
            {"role": "user", "content": first},
            {"role": "assistant", "content": task.earlier.answer},
            {"role": "user", "content": task.question},
        ]
    content = [question, *images] if task.picture_last else [*images, question]
    return [{"role": "user", "content": content if images else task.question}]


def _over_http(base_url: str, model: str | None) -> Answerer:
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none", timeout=300, max_retries=5)
    name = model or client.models.list().data[0].id

    def answer(task: Task) -> str:
        reply = client.chat.completions.create(
            model=name, messages=_messages(task), temperature=0, max_tokens=128
        )
        return reply.choices[0].message.content or ""

    return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.5)
    raise SystemExit("the server was not ready in 120 s")


@contextlib.contextmanager
def _own_server() -> Iterator[str]:
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "internvl_server",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/ready", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _examine(answer: Answerer, kind: str, scenes: int, concurrency: int, seed: str) -> Score:
    score = Score()

    def ask(index: int) -> tuple[Task, str]:
        task = make_task(kind, index, seed=seed)
        return task, answer(task)

    with ThreadPoolExecutor(concurrency) as executor:
        for task, text in executor.map(ask, range(scenes)):
            score.add(task, text)
    return score


def _run(answer: Answerer, options: argparse.Namespace) -> int:
    scores: dict[str, Score] = {}
    for kind in options.kinds:
        began = time.monotonic()
        scores[kind] = _examine(answer, kind, options.scenes, options.concurrency, options.seed)
        took = time.monotonic() - began
        print(f"{kind}: {scores[kind].part:.1%} of {options.scenes} in {took:.0f} s", flush=True)
    for mistake in mistakes(scores, options.show):
        print(mistake)
    shown = table(scores)
    print(f"\n{shown}")
    return 1 if "MISSED" in shown else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", help="a running server's address, ending in /v1")
    parser.add_argument("--model", help="model name; the server's first one if left out")
    parser.add_argument("--offline", action="store_true", help="use transformers, no server")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "server" / "internvl_server" / "demo_model"
    )
    parser.add_argument("--scenes", type=int, default=500, help="questions of each kind")
    parser.add_argument("--kinds", nargs="+", choices=ALL_KINDS, default=list(ALL_KINDS))
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", default="exam", help="another word gives another exam")
    parser.add_argument("--show", type=int, default=3, help="wrong answers to print of each kind")
    return parser.parse_args()


def main() -> int:
    """Run the exam; 0 if the bar is reached."""
    options = _options()
    if options.offline:
        from demo_world.offline import OfflineModel

        options.concurrency = 1
        return _run(OfflineModel(options.folder).answer, options)
    if options.base_url:
        return _run(_over_http(options.base_url, options.model), options)
    with _own_server() as base_url:
        return _run(_over_http(base_url, options.model), options)


if __name__ == "__main__":
    raise SystemExit(main())
