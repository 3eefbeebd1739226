"""Asks the demo model over HTTP, at a running server or at one started for the examination."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from openai import OpenAI

from scripts.demo_model.exam.tasks import Task
from scripts.demo_model.world.drawing import encode_scene
from scripts.demo_model.world.scene import Scene

_START_TIMEOUT_S = 120.0
_ROOT = Path(__file__).parents[3]


class HttpModel:
    """A served model.

    Args:
        base_url: The server's address, ending in ``/v1``.
        model: Name of the model; None for the first one that the server lists.
    """

    def __init__(self, base_url: str, model: str | None = None) -> None:
        self._client = OpenAI(base_url=base_url, api_key="none", timeout=300, max_retries=5)
        self._model = model or self._client.models.list().data[0].id

    def answer(self, task: Task) -> str:
        """Return the greedy answer to a task."""
        reply = self._client.chat.completions.create(
            model=self._model, messages=_messages(task), temperature=0, max_tokens=128
        )
        return reply.choices[0].message.content or ""


@contextlib.contextmanager
def demo_server(folder: Path | None = None) -> Iterator[str]:
    """Start a server and yield its base URL.

    Args:
        folder: The checkpoint to serve; None for the bundled demo model.
    """
    port = _free_port()
    model = [] if folder is None else ["--model", str(folder)]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "internvl_server", "serve", *model, *address]
    with subprocess.Popen(command, cwd=_ROOT) as server:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/ready", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _messages(task: Task) -> list[dict[str, object]]:
    images = [_image_part(scene, task.detail) for scene in task.scenes]
    if task.earlier:
        first = [*images, {"type": "text", "text": task.earlier.question}]
        return [
            {"role": "user", "content": first},
            {"role": "assistant", "content": task.earlier.answer},
            {"role": "user", "content": task.question},
        ]
    question: dict[str, object] = {"type": "text", "text": task.question}
    content = [question, *images] if task.image_last else [*images, question]
    return [{"role": "user", "content": content if images else task.question}]


def _image_part(scene: Scene, detail: str) -> dict[str, object]:
    data, media_type = encode_scene(scene)
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server exited with {server.returncode}")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.5)
    raise SystemExit(f"the server was not ready after {_START_TIMEOUT_S:.0f} s")
