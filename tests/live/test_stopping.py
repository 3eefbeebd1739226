"""Signals: what runs is finished, or told that the server stops; and nothing stays behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from scripts.load.costs import descendants
from scripts.load.servers import free_port
from tests.live.test_process import ROOT, serving
from tests.live.test_streams import wait_until

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
LONG = HELLO | {"min_tokens": 1500, "max_tokens": 1500}
SLOW = ("--set", "engine.echo.token_delay_s=0.05")


@contextmanager
def streaming(url: str, body: dict[str, Any]) -> Iterator[Iterator[str]]:
    """The events of an answer, of which the first has come."""
    body = body | {"stream": True}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
        events = (line for line in answer.iter_lines() if line)
        next(events)
        yield events


class Whole(threading.Thread):
    """A request for a whole answer, on a thread."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.answer: httpx2.Response
        self.start()

    def run(self) -> None:
        self.answer = httpx2.post(f"{self._url}/v1/chat/completions", json=LONG, timeout=60)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_finishes_what_runs(tiny_checkpoint: Path, sign: signal.Signals) -> None:
    with serving(tiny_checkpoint, *SLOW) as (process, url):
        with streaming(url, HELLO) as events:
            process.send_signal(sign)
            rest = list(events)
        assert "data: [DONE]" in rest
        assert process.wait(timeout=60) == 0


def test_a_separate_port_shows_metrics_until_the_last_request_has_ended(
    tiny_checkpoint: Path,
) -> None:
    port = free_port()
    metrics = f"http://127.0.0.1:{port}/metrics"
    with serving(tiny_checkpoint, *SLOW, "--server.metrics-port", str(port)) as (process, url):
        with streaming(url, LONG):
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_open(url))
            assert "internvl_num_requests_running 1.0\n" in httpx2.get(metrics, timeout=60).text
        assert process.wait(timeout=60) == 0
        assert not is_open(metrics)


def is_open(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as client:
        return client.connect_ex((parts.hostname, parts.port)) == 0


def test_a_leaving_server_serves_on_until_balancers_have_noticed(tiny_checkpoint: Path) -> None:
    with serving(tiny_checkpoint, "--set", "server.pre_drain_s=600") as (process, url):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx2.get(f"{url}/ready", timeout=60).status_code == 503)
        answers = [
            httpx2.post(f"{url}/v1/chat/completions", json=HELLO, timeout=60) for _ in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert [answer.headers["connection"] for answer in answers] == ["close"] * 3
        time.sleep(1)  # or it would count as the same signal
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("why", ["the drain has an end", "a second signal"])
def test_what_runs_is_told_that_the_server_stops(tiny_checkpoint: Path, why: str) -> None:
    drain_s = 1 if why == "the drain has an end" else 600
    options = (*SLOW, "--set", f"server.drain_s={drain_s}")
    with serving(tiny_checkpoint, *options) as (process, url):
        whole = Whole(url)
        with streaming(url, LONG) as events:
            wait_until(
                lambda: "requests_running 2.0\n" in httpx2.get(f"{url}/metrics", timeout=60).text
            )
            process.send_signal(signal.SIGTERM)
            if drain_s > 1:
                wait_until(lambda: not is_open(url))
                time.sleep(1)  # or it would count as the same signal
                process.send_signal(signal.SIGTERM)
            *_, last = events
        assert json.loads(last[6:])["error"]["code"] == "server_shutting_down"
        whole.join()
        assert whole.answer.status_code == 503
        assert whole.answer.json()["error"]["code"] == "server_shutting_down"
        assert process.wait(timeout=60) == 0
        assert "ERROR" not in process.stderr.read()


def test_a_reader_that_is_stuck_does_not_keep_the_server(tiny_checkpoint: Path) -> None:
    options = ("--set", "server.drain_s=1", "--set", "engine.echo.token_delay_s=0.0001")
    with serving(tiny_checkpoint, *options) as (process, url):
        body = json.dumps(LONG | {"stream": True, "n": 8}).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            client.recv(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        assert "ERROR" not in process.stderr.read()


def test_connections_that_wait_to_be_accepted_are_served(tiny_checkpoint: Path) -> None:
    """They were established by the system, so that nobody could repeat their requests."""
    body = json.dumps(HELLO).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    with serving(tiny_checkpoint) as (process, url):
        address = "127.0.0.1", int(url.rsplit(":", 1)[1])
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        clients = [socket.create_connection(address) for _ in range(50)]
        for client in clients:
            client.sendall(request)
        process.send_signal(signal.SIGCONT)
        answers = []
        for client in clients:
            with client:
                answers.append(client.recv(12))
        assert answers == [b"HTTP/1.1 200"] * 50
        assert process.wait(timeout=60) == 0


# A small model would be loaded before the signal arrives.
SLOW_START = """
import sys, time
from internvl_server.cli import main
from internvl_server.engine.cpu.engine import CpuEngine
CpuEngine._load = lambda self: time.sleep(60)
sys.exit(main())
"""


def test_a_server_that_is_starting_ends_at_once(tiny_checkpoint: Path) -> None:
    options = ["serve", "--engine", "cpu", "--port", "0", "--model", str(tiny_checkpoint)]
    command = [sys.executable, "-c", SLOW_START, *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "Application startup complete" in line:
                break
        process.send_signal(signal.SIGTERM)
        lines += process.stderr.readlines()
        assert process.wait(timeout=60) == 0
    assert "ready after" not in "".join(lines)
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_server(tiny_checkpoint: Path, sign: signal.Signals) -> None:
    with serving(tiny_checkpoint) as (process, _):
        children = descendants(process.pid)
        assert children
        os.kill(children[0], signal.SIGSTOP)  # as one that computes without an end
        process.send_signal(sign)
        process.wait(timeout=60)
        wait_until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])
