"""Two servers behind a real HAProxy or nginx with the shipped configurations; stopping one loses nothing.

Streams that run on it are finished, and so is what arrives until its socket closes. Clients repeat nothing.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from scripts.injections.replicas import command, find, local_config
from scripts.load.servers import free_port
from tests.live.test_streams import wait_until

ROOT = Path(__file__).parents[2]
NUM_CLIENTS = 24


def needs(name: str) -> Any:
    return pytest.param(
        name,
        marks=pytest.mark.skipif(
            find(name) is None,
            reason=f"{name} IS NOT INSTALLED: its configuration is not tried out",
        ),
    )


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def replica(checkpoint: Path, port: int) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "internvl_server", "serve", "--engine", "echo", "--model", str(checkpoint),
        "--port", str(port), "--set", "model.served_name=m",
        "--set", "engine.echo.token_delay_s=0.02",
    )  # fmt: skip


def wait_for(url: str, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if httpx2.get(url, timeout=60).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(url)


def one_stream(client: openai.OpenAI) -> str:
    """What went wrong with one request; empty when it ended as it should."""
    try:
        chunks = list(
            client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "one two three four five six"}],
                max_tokens=10,
                stream=True,
            )
        )
    except openai.OpenAIError as err:
        return repr(err)
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    return "" if reasons and reasons[-1] else f"cut after {len(chunks)} chunks"


def servers_of(url: str, headers: dict[str, str]) -> set[str]:
    """The servers that answer six requests, one after another."""
    body = {"model": "m", "messages": [{"role": "user", "content": "one"}], "max_tokens": 1}
    answers = [
        httpx2.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        for _ in range(6)
    ]
    return {answer.raise_for_status().headers["x-replica"] for answer in answers}


class Load:
    """Clients that stream one request after another. A context: they end on leaving."""

    def __init__(self, url: str) -> None:
        self.outcomes: list[tuple[float, str]] = []
        self._url = url
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(NUM_CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self) -> None:
        with openai.OpenAI(
            base_url=f"{self._url}/v1", api_key="none", timeout=60, max_retries=0
        ) as client:
            while not self._is_over.is_set():
                started = time.monotonic()
                self.outcomes.append((started, one_stream(client)))

    def more(self, number: int) -> None:
        """Wait until so many more requests have ended."""
        number += len(self.outcomes)
        wait_until(lambda: len(self.outcomes) >= number)


@contextmanager
def balanced(
    name: str, checkpoint: Path, folder: Path
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Two servers behind the balancer, and its address."""
    port, ports = free_port(), [free_port(), free_port()]
    config = folder / f"{name}.conf"
    config.write_text(local_config(name, port, ports, folder), encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        servers = [stack.enter_context(running(*replica(checkpoint, p))) for p in ports]
        for server_port in ports:
            wait_for(f"http://127.0.0.1:{server_port}/ready")
        stack.enter_context(running(*command(name, config)))
        wait_for(f"{url}/ready")
        yield url, servers


# HAProxy prefers one of them by the key of the requests, and its stop is the one that is hard to survive.
@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("name", [needs("haproxy"), needs("nginx")])
def test_a_stopped_server_loses_no_request(
    name: str, victim: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with balanced(name, tiny_checkpoint, tmp_path) as (url, servers):
        for path in ("/metrics", "/%6detrics", "/metrics?a=b"):
            assert httpx2.get(url + path, timeout=60).status_code == 404, path
        with Load(url) as load:
            load.more(2 * NUM_CLIENTS)
            stopped_at = time.monotonic()
            servers[victim].send_signal(signal.SIGTERM)
            assert servers[victim].wait(60) == 0, "it drained and left in peace"
            load.more(3 * NUM_CLIENTS)
        before = [outcome for start, outcome in load.outcomes if start < stopped_at]
        after = [outcome for start, outcome in load.outcomes if start >= stopped_at]
        assert len(before) >= NUM_CLIENTS
        assert len(after) >= 2 * NUM_CLIENTS
        assert [outcome for outcome in before + after if outcome] == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [needs("haproxy")])
def test_a_conversation_stays_on_its_server(
    name: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with balanced(name, tiny_checkpoint, tmp_path) as (url, servers):
        keys = [{"x-affinity-key": key} for key in "abcdef"]
        servers_of_keys = [servers_of(url, headers) for headers in keys]
        assert {len(found) for found in servers_of_keys} == {1}
        assert len(set.union(*servers_of_keys)) == 2
        (first,) = servers_of_keys[0]
        killed = servers[int(first[-1]) - 1]
        killed.kill()
        killed.wait(60)  # until then it may accept a request, which is lost with it
        (other,) = servers_of(url, {"x-affinity-key": "a"})
        assert other != first
