"""A decode worker that was taken over, in a real server: it can do nothing but compute."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx2
import pytest

from tests.live.taken_over.attempts import ATTEMPTS, REFUSED, Target
from tests.live.test_process import ROOT, descendants

KEY = "sk-a-key-that-nobody-else-may-read"
Ask = Callable[[str], str]


@contextmanager
def taken_over(program: str, checkpoint: Path, folder: Path) -> Iterator[Ask]:
    """A server whose workers make the attempts that requests name."""
    keys_file = folder / "keys"
    keys_file.write_text(f"someone:{KEY}-2\n")
    Path(f"{keys_file}.bak").touch()
    command = [sys.executable, "-m", "tests.live.taken_over.server", program, "serve"]
    options = ["--port", "0", "--model", str(checkpoint), "--engine", "echo"]
    settings = ["--set", "media.num_workers=2", "--set", f"server.keys_file={keys_file}"]
    environment = {
        "INTERNVL_SERVER__API_KEYS": json.dumps([KEY]), "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}"
    }  # fmt: skip
    process = subprocess.Popen(
        [*command, *options, *settings],
        cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines: list[str] = []
        while "ready after" not in "".join(lines[-1:]):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        [port] = re.findall(r"http://127\.0\.0\.1:(\d+)/v1", "".join(lines))
        workers = descendants(process.pid)
        target = Target(process.pid, workers, KEY, str(keys_file), str(folder))

        def ask(name: str) -> str:
            crafted = json.dumps({"attempt": name, "target": asdict(target)}).encode()
            url = f"data:image/png;base64,{base64.b64encode(crafted).decode()}"
            part = {"type": "image_url", "image_url": {"url": url}}
            answer = httpx2.post(
                f"http://127.0.0.1:{port}/v1/chat/completions", timeout=60,
                headers={"authorization": f"Bearer {KEY}"},
                json={"model": "tiny", "messages": [{"role": "user", "content": [part]}]},
            )  # fmt: skip
            assert answer.status_code == 400, answer.text
            return answer.json()["error"]["message"]

        yield ask
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def confined(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    with taken_over("worker", tiny_checkpoint, tmp_path_factory.mktemp("confined")) as ask:
        yield ask


@pytest.fixture(scope="module")
def free(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    with taken_over("free_worker", tiny_checkpoint, tmp_path_factory.mktemp("free")) as ask:
        yield ask


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_worker_that_was_taken_over_is_refused(confined: Ask, name: str) -> None:
    assert confined(name) in {f"refused {number}" for number in REFUSED}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_without_the_confinement_it_succeeds(free: Ask, name: str) -> None:
    is_root = os.geteuid() == 0
    assert free(name) == "done" or (name in ("namespace", "other root") and not is_root)
