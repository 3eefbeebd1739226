"""The server runs with the chart's settings in a container like the chart's, here made of namespaces."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import yaml

from scripts.load.servers import free_port
from tests.kubernetes.chart import (
    CPU,
    POOL,
    ROOT,
    Values,
    container,
    merged,
    pod,
    settings,
    toml,
)
from tests.live.test_streams import wait_until

KEY = "sk-a-key-in-a-secret"
PICTURE = ROOT / "tests/data/example.jpg"
SCRIPT = Path(__file__).with_name("pod.sh")


def can_make_namespaces() -> bool:
    if os.geteuid() or not shutil.which("unshare"):
        return False
    return not subprocess.run(["unshare", "--mount", "true"], check=False).returncode


pytestmark = pytest.mark.skipif(not can_make_namespaces(), reason="namespaces of mounts need root")


@dataclass
class Pod:
    """The mounts and the environment of the chart's container."""

    values: Values
    folder: Path

    def command(self, *words: str) -> list[str]:
        """A command in the container."""
        volumes = {volume["name"]: volume for volume in pod(self.values)["volumes"]}
        mounts = [f"{ROOT / name}:/app/{name}:ro" for name in ("configs", "server")]
        mounts.append(f"{sys.prefix}:/opt/venv:ro")
        for mount in container(self.values)["volumeMounts"]:
            source = self._volume(volumes[mount["name"]])
            mounts.append(
                f"{source}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")
            )
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        return [
            "unshare",
            "--mount",
            str(SCRIPT),
            str(root),
            sys.base_prefix,
            *mounts,
            "--",
            *words,
        ]

    def _volume(self, volume: dict) -> Path:
        """A folder with the content, the owner and the rights that Kubernetes gives it."""
        folder = self.folder / volume["name"]
        folder.mkdir(exist_ok=True)
        if "configMap" in volume:
            (folder / "settings.toml").write_text(toml(self.values))
        elif secret := volume.get("secret"):
            [item] = secret["items"]
            (folder / item["path"]).write_text(f"someone:{KEY}\n")
            (folder / item["path"]).chmod(secret["defaultMode"])
            os.chown(folder / item["path"], 0, pod(self.values)["securityContext"]["fsGroup"])
        else:
            os.chown(folder, 0, pod(self.values)["securityContext"]["fsGroup"])
            folder.chmod(0o2775)
        return folder

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the image and of the chart; as in the image, Python is that of /opt/venv."""
        chart = {variable["name"]: variable["value"] for variable in container(self.values)["env"]}
        return {
            "PATH": "/opt/venv/bin:/usr/bin:/bin", "PYTHONPATH": "/app/server", "HOME": "/models",
            "HF_HOME": "/models", "PYTHONDONTWRITEBYTECODE": "1", **chart,
        }  # fmt: skip


@pytest.fixture(scope="module")
def in_pod(tmp_path_factory: pytest.TempPathFactory) -> Pod:
    server = {
        "host": "127.0.0.1", "metrics_host": "127.0.0.1", "port": free_port(),
        "metrics_port": free_port(), "pre_drain_s": 20,
    }  # fmt: skip
    values = merged(CPU, {"settings": {"server": server}})
    return Pod(values, tmp_path_factory.mktemp("pod"))


@dataclass
class Running:
    """The server in the container."""

    process: subprocess.Popen[bytes]
    url: str
    metrics_url: str
    log: Path


@pytest.fixture(scope="module")
def running(in_pod: Pod) -> Iterator[Running]:
    server = settings(in_pod.values)["server"]
    # The entry point of the image, without the console script, which names the Python it was installed for.
    entry = ["/opt/venv/bin/python", "-m", "internvl_server", "serve"]
    log = in_pod.folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            in_pod.command(*entry, *container(in_pod.values)["args"]),
            env=in_pod.environment, cwd="/", stderr=file,
        )  # fmt: skip
    url, metrics_url = (f"http://127.0.0.1:{server[name]}" for name in ("port", "metrics_port"))
    found = Running(process, url, metrics_url, log)
    try:
        probe = container(in_pod.values)["startupProbe"]
        wait_for(found, url + probe["httpGet"]["path"])
        yield found
    finally:
        process.kill()
        process.wait()


def wait_for(running: Running, url: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert running.process.poll() is None, running.log.read_text()
        with suppress(httpx2.TransportError):
            if httpx2.get(url, timeout=60).status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(running.log.read_text())


def ask(url: str, key: str = KEY) -> httpx2.Response:
    encoded = base64.b64encode(PICTURE.read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}
    text = {"type": "text", "text": "Describe the image."}
    body = {
        "model": "internvl-demo", "temperature": 0, "messages": [{"role": "user", "content": [image, text]}],
    }  # fmt: skip
    return httpx2.post(
        f"{url}/v1/chat/completions", json=body, headers={"x-api-key": key}, timeout=60
    )


@pytest.mark.parametrize(
    "path", ["/", "/app", "/opt/venv", "/etc/internvl/settings", "/etc/internvl/keys"]
)
def test_the_root_is_read_only(in_pod: Pod, path: str) -> None:
    done = subprocess.run(
        in_pod.command("touch", f"{path}/file"), capture_output=True, text=True, check=False
    )
    assert re.search("Read-only file system|Permission denied", done.stderr)


def test_the_probes_succeed(in_pod: Pod, running: Running) -> None:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container(in_pod.values)[name]["httpGet"]["path"]
        assert httpx2.get(running.url + path, timeout=60).status_code == 200, name


def test_a_picture_is_described_to_who_has_a_key(running: Running) -> None:
    answer = ask(running.url)
    assert answer.status_code == 200, answer.text
    assert "star" in answer.json()["choices"][0]["message"]["content"]
    assert ask(running.url, "another").status_code == 401


def test_processes_are_confined_and_nothing_is_refused(running: Running) -> None:
    """No warning of a filter that is not installed, of keys that all can read, or of a failed write."""
    ask(running.url)
    log = running.log.read_text()
    assert "ready after" in log
    assert not re.search("WARNING|ERROR|Read-only|Permission denied", log), log


def test_metrics_have_their_port_and_the_names_of_the_manifests(running: Running) -> None:
    assert (
        httpx2.get(f"{running.url}/metrics", headers={"x-api-key": KEY}, timeout=60).status_code
        == 404
    )
    text = httpx2.get(f"{running.metrics_url}/metrics", timeout=60).text
    [picker] = [x for x in yaml.safe_load_all(POOL.read_text("utf-8")) if x["kind"] == "ConfigMap"]
    names = set(re.findall(r"\binternvl_\w+", json.dumps(picker["data"])))
    assert len(names) == 3
    for name in names:
        assert re.search(rf"^{name} ", text, re.MULTILINE), name


def test_the_server_drains_and_ends(in_pod: Pod, running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    wait_until(lambda: httpx2.get(f"{running.url}/ready", timeout=60).status_code == 503)
    assert ask(running.url).status_code == 200
    grace_s = pod(in_pod.values)["terminationGracePeriodSeconds"]
    assert running.process.wait(timeout=grace_s) == 0
