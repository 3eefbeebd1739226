"""A real HAProxy keeps a conversation on one server, by the key that the server's code computes."""

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from internvl_server.routing.affinity import WINDOW_BYTES, affinity_key

from scripts.injections.replicas import command, find, local_config
from scripts.load.servers import ServerProcess, free_port
from tests.conversations import picture_bodies
from tests.live.test_streams import wait_until

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    find("haproxy") is None, reason="haproxy IS NOT INSTALLED: its affinity is not tried out"
)

ECHO = """
global
    tune.bufsize 131072
    lua-load-per-thread {lua}
defaults
    mode http
    timeout client 60s
    timeout connect 60s
    timeout server 60s
frontend keys
    bind 127.0.0.1:{port}
    http-request wait-for-body time 60s at-least 65536
    http-request set-var(txn.affinity) lua.affinity_key
    http-request return status 200 content-type text/plain lf-string "%[var(txn.affinity)]"
"""


@contextmanager
def haproxy(text: str, port: int, folder: Path) -> Iterator[str]:
    """HAProxy with a configuration, and its address."""
    config = folder / "haproxy.cfg"
    config.write_text(text, encoding="utf-8")
    process = subprocess.Popen(command("haproxy", config), stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url))
        yield url
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        httpx2.get(url, timeout=60)
    except httpx2.TransportError:
        return False
    return True


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client of HAProxy that answers with the key of each request."""
    port = free_port()
    text = ECHO.format(lua=ROOT / "configs/affinity.lua", port=port)
    folder = tmp_path_factory.mktemp("keys")
    with haproxy(text, port, folder) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def text_messages(texts: list[str]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


BODIES = st.one_of(
    st.binary(max_size=300),
    # Pieces from which the two could part.
    st.lists(
        st.sampled_from(
            ['"messages"', '"user"', '"assistant"', '\\"user"', '"url"', '"text"', ":", " ", "\n", "{", "}",
             "[", ",", '"', "\\", '"A long enough value, or so"', '"short"', '"input":', '"content":',
             "\x0b", "é"]
        ),
        max_size=40,
    ).map(lambda pieces: "".join(pieces).encode()),
    st.lists(st.text(max_size=60), max_size=4).map(
        lambda texts: json.dumps({"model": "m", "messages": text_messages(texts)}).encode()
    ),
    st.integers(WINDOW_BYTES - 300, WINDOW_BYTES + 300).map(
        lambda size: json.dumps(
            {"messages": [{"content": "x" * size, "role": "user"}, *text_messages(["and"])]}
        ).encode()
    ),
)  # fmt: skip


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(BODIES)
def test_haproxy_computes_the_same_key(keys: httpx2.Client, body: bytes) -> None:
    answer = keys.post("/", content=body)
    assert (answer.status_code, answer.text) == (200, affinity_key(body))


def test_haproxy_computes_the_key_of_pictures(
    keys: httpx2.Client, picture_url: Callable[..., str]
) -> None:
    for body in picture_bodies(picture_url, "m", num_turns=2):
        body["messages"][0]["content"][0]["image_url"]["url"] += "A" * 3 * WINDOW_BYTES
        content = json.dumps(body).encode()
        assert keys.post("/", content=content).text == affinity_key(content)


def metric(text: str, name: str) -> float:
    return sum(float(x) for x in re.findall(rf"^internvl_{name}(?:{{.*}})? (\S+)$", text, re.M))


def hit_rates(ports: list[int], url: str, bodies: list[dict[str, Any]]) -> list[float]:
    """Send requests one by one; the shares of images and prompt tokens that both servers knew."""

    def counts() -> list[float]:
        pages = [httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text for port in ports]
        names = (
            "media_cache_hits",
            "media_cache_queries",
            "prefix_cache_hits",
            "prefix_cache_queries",
        )
        return [sum(metric(page, f"{name}_total") for page in pages) for name in names]

    before = counts()
    servers = set()
    for body in bodies:
        answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        servers.add(answer.raise_for_status().headers["x-replica"])
    assert len(servers) == 2, "both take part"
    media, all_media, prefix, all_tokens = (
        now - then for now, then in zip(counts(), before, strict=True)
    )
    assert all_media == len(bodies)
    return [media / all_media, prefix / all_tokens]


@pytest.mark.timeout(240)
def test_affinity_raises_the_hit_rates(tmp_path: Path, picture_url: Callable[..., str]) -> None:
    rates = {}
    with two_servers(tmp_path) as (ports, model):
        for balance, colour in (("hash", "red"), ("leastconn", "blue")):
            port = free_port()
            text = local_config("haproxy", port, ports, tmp_path)
            if balance == "leastconn":
                text, count = re.subn(r"balance hash .*\n.*\n.*\n", "balance leastconn\n", text)
                assert count == 1
            make = partial(picture_url, colour=colour)
            bodies = picture_bodies(make, model, num_conversations=7)
            with haproxy(text, port, tmp_path) as url:
                wait_ready(port)
                rates[balance] = hit_rates(ports, url, bodies)
    logging.getLogger(__name__).info("shares of images and tokens that were known: %s", rates)
    images, tokens = rates["hash"]
    assert images == pytest.approx(2 / 3), "all turns but the first of each conversation"
    assert images > rates["leastconn"][0]
    assert tokens > rates["leastconn"][1]


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[list[int], str]]:
    """Two servers with the demo model, and its name."""
    words = [sys.executable, "-m", "internvl_server", "serve", "--port", "{port}"]
    with ExitStack() as stack:
        logs = [folder / f"{name}.log" for name in ("a", "b")]
        ports = [stack.enter_context(ServerProcess(words, log)).port for log in logs]
        for port in ports:
            wait_ready(port)
        models = httpx2.get(f"http://127.0.0.1:{ports[0]}/v1/models", timeout=60).json()
        yield ports, models["data"][0]["id"]


def wait_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(port)
