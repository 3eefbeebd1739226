"""The dashboard and the alerts of `configs/monitoring`, on servers under load: each of their metrics moves.

Prometheus itself, where it is installed, computes each expression over the figures of this load.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from internvl_server.settings import Settings
from prometheus_client.parser import text_string_to_metric_families

from scripts.load.servers import free_port
from tests.live.test_process import descendants, serving
from tests.live.test_streams import wait_until

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "configs" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}
PANELS = {
    f"{panel['title']}: {target['legendFormat']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
PICTURES = sorted((ROOT / "tests/data/demo").glob("tests-count-*.jpg"))
DEMO = Path(Settings().model.path)
VIDEO = ROOT / "tests/data/example.mp4"
# They say what the server is. An engine that is not ready or alive has a test below.
FIXED = {
    "internvl_build_info", "internvl_budget_limit", "internvl_engine_alive", "internvl_engine_ready",
    "process_max_fds",
}  # fmt: skip
# They return to zero within milliseconds, and a reading may miss them.
GAUGES = {
    "internvl_budget_waiting",
    "internvl_decode_workers_busy",
    "internvl_num_requests_waiting",
}
SCRAPE_MS = 500
WINDOW = "10m"  # longer than the load, however busy the machine is


def named(expression: str) -> set[str]:
    """The names of the metrics in an expression."""
    return set(re.findall(r"\b(?:internvl|process)_\w+", expression))


EVERY_NAME = set().union(*(named(text) for text in [*PANELS.values(), *ALERTS.values()]))


class Watch:
    """Reads the metrics of servers again and again. A context."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._values: dict[str, dict[tuple[str, ...], set[float]]] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._read(earlier=())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._read()

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return set(self._values)

    @property
    def moved(self) -> set[str]:
        """Names of samples that have a series with several values."""
        return {
            name
            for name, series in list(self._values.items())  # the thread adds to them
            if any(len(values) > 1 for values in list(series.values()))
        }

    def _run(self) -> None:
        while not self._is_over.wait(0.05):
            self._read()

    def _read(self, earlier: tuple[float, ...] = (0.0,)) -> None:
        for url in self._urls:
            answer = httpx2.get(f"{url}/metrics", timeout=60)
            for family in text_string_to_metric_families(answer.text):
                for sample in family.samples:
                    labels = (url, *(f"{k}={v}" for k, v in sorted(sample.labels.items())))
                    series = self._values.setdefault(sample.name, {})
                    # What appears later was nothing before.
                    series.setdefault(labels, set(earlier)).add(sample.value)


def part(data: bytes, media_type: str = "image/jpeg") -> dict[str, Any]:
    kind = media_type.partition("/")[0] + "_url"
    return {
        "type": kind,
        kind: {"url": f"data:{media_type};base64,{base64.b64encode(data).decode()}"},
    }


def ask(url: str, *parts: dict[str, Any], **fields: object) -> int:
    content = [*parts, {"type": "text", "text": "Describe what you see."}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 24, "temperature": 0}
    return httpx2.post(
        f"{url}/v1/chat/completions", json=body | {"model": "m"} | fields, timeout=120
    ).status_code


def leave(url: str) -> None:
    """Read the beginning of a stream, and close the connection."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
        next(answer.iter_bytes())


class PictureHost(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(PICTURES[0].stat().st_size))
        self.end_headers()
        self.wfile.write(PICTURES[0].read_bytes())

    def log_message(self, *_: object) -> None:
        pass


def crowd(url: str, pictures: list[dict[str, Any]]) -> None:
    """Send more requests at once than are admitted."""
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, url, pictures[1 + index % 5]) for index in range(24)]
        statuses = {answer.result() for answer in asked}
    assert statuses == {200, 429}


def load(good: str, bad: str, pid: int, picture_url: str, watch: Watch) -> None:
    """Requests of all kinds, good and bad, to a good server and one whose engine fails."""
    pictures = [part(path.read_bytes()) for path in PICTURES]
    for _ in range(2):  # the second from the caches
        assert ask(good, pictures[0]) == 200
        assert ask(good, part(VIDEO.read_bytes(), "video/mp4")) == 200
    assert ask(good, {"type": "image_url", "image_url": {"url": picture_url}}) == 200
    assert ask(good, temperature=-1) == 400
    assert ask(bad) == 503
    leave(good)
    for _ in range(10):
        crowd(good, pictures)
        if watch.moved >= GAUGES:
            break
    [worker, *_] = before = descendants(pid)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: worker not in descendants(pid) and len(descendants(pid)) == len(before))
    assert ask(good, pictures[-1]) == 200


@pytest.fixture(scope="module")
def picture_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), PictureHost) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_address[1]}/picture"
        host.shutdown()


@pytest.fixture(scope="module")
def servers(tiny_checkpoint: Path, picture_url: str) -> Iterator[tuple[str, str, int]]:
    options = {
        "engine.max_num_seqs": 2,
        "limits.max_in_flight": 4,
        "media.allowed_private_networks": '["127.0.0.0/8"]',
        "media.allowed_ports": [int(picture_url.split(":")[2].split("/")[0])],
    }
    name = ["--set", "model.served_name=m"]
    good = ["--engine", "cpu"]
    good += [word for item in options.items() for word in ("--set", "{}={}".format(*item))]
    bad = ["--engine", "echo", "--set", "engine.echo.fail_after_tokens=1"]
    with ExitStack() as stack:
        process, url = stack.enter_context(serving(DEMO, *name, *good))
        _, bad_url = stack.enter_context(serving(tiny_checkpoint, *name, *bad))
        yield url, bad_url, process.pid


@contextmanager
def prometheus(urls: list[str], folder: Path) -> Iterator[Callable[..., Any]]:
    """Run it with the shipped configuration on other servers. Yields a function that asks its API."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))
    config["global"] = {
        "scrape_interval": f"{SCRAPE_MS}ms",
        "evaluation_interval": f"{SCRAPE_MS}ms",
    }
    [job] = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [url.removeprefix("http://") for url in urls]}]
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    address = f"127.0.0.1:{port}"
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address={address}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def get(path: str, **parameters: str) -> Any:
        answer = httpx2.get(f"http://{address}/api/v1/{path}", params=parameters, timeout=60).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def is_scraping() -> bool:
        with suppress(httpx2.TransportError, ValueError):
            up = get("query", query="up == 1")["result"]
            return len(up) == len(urls)
        return False

    try:
        wait_until(is_scraping)
        yield get
    finally:
        process.terminate()
        process.wait(60)


def wait_for_scrapes(get: Callable[..., Any]) -> None:
    """Until Prometheus has read each server twice more."""

    def is_read_since(begin: float) -> bool:
        [oldest] = get("query", query="min(timestamp(up))")["result"]
        return float(oldest["value"][1]) > begin

    for _ in range(2):
        wait_until(partial(is_read_since, time.time()))


@pytest.fixture(scope="module")
def loaded(
    servers: tuple[str, str, int], picture_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Watch, Callable[..., Any] | None]]:
    good, bad, pid = servers
    with ExitStack() as stack:
        get = None
        if shutil.which("prometheus"):
            folder = tmp_path_factory.mktemp("prometheus")
            get = stack.enter_context(prometheus([good, bad], folder))
            wait_for_scrapes(get)  # rates need a value from before
        with Watch([good, bad]) as watch:
            load(good, bad, pid, picture_url, watch)
        if get is not None:
            wait_for_scrapes(get)
        yield watch, get


def test_every_metric_of_dashboard_and_alerts_exists_and_moves(
    loaded: tuple[Watch, object],
) -> None:
    watch, _ = loaded
    assert len(EVERY_NAME) > 40
    assert sorted(EVERY_NAME - watch.names) == []
    assert sorted(EVERY_NAME - watch.moved - FIXED) == []


def test_the_page_names_every_metric_and_no_other(loaded: tuple[Watch, object]) -> None:
    watch, _ = loaded
    page = (ROOT / "server/docs/metrics.md").read_text("utf-8")
    table, rest = re.split("<!-- metrics:end -->", page)
    described = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in watch.names}
    assert described == shown
    assert named(rest) <= described


@pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="prometheus IS NOT INSTALLED: the expressions of configs/monitoring are not computed",
)
def test_prometheus_computes_every_expression(
    loaded: tuple[Watch, Callable[..., Any]],
) -> None:
    _, get = loaded
    empty = []
    for title, expression in PANELS.items():
        text = expression.replace("$__rate_interval", WINDOW).replace("$instance", ".*")
        values = [result["value"][1] for result in get("query", query=text)["result"]]
        if not [value for value in values if value != "NaN"]:
            empty.append(title)
    assert empty == []
    rules = [rule for group in get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(ALERTS, "ok")
