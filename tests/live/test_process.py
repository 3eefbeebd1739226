"""The server as a process: the command line, and refusing to start."""

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from internvl_server.settings.keys import parse_key

from scripts.load.servers import free_port

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "internvl_server", "serve", "--engine", "echo"]


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


without_driver = pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")


def run(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options], cwd=ROOT, env=os.environ | (env or {}), capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip


@contextmanager
def serving(
    checkpoint: Path, *options: str, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    # On a busy machine nothing is refused because of how long it would wait.
    patient = ("--set", "limits.max_expected_wait_s=3600", "--set", "limits.queue_timeout_s=60")
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--model", str(checkpoint), *patient, *options], cwd=ROOT,
        env=os.environ | (env or {}), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "ready after" in line:
                break
        port = re.search(r"on http://127\.0\.0\.1:(\d+)/v1", "".join(lines))
        assert port, lines
        yield process, f"http://127.0.0.1:{port.group(1)}"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "x"], "--port (server.port)"),
        (["--set", "engine.max_num_seqs=0"], "--set engine.max_num_seqs:"),
        (["--set", "media.nope=1"], "--set media.nope: there is no such setting"),
        (["--set", "nope"], "SECTION.KEY=VALUE"),
        (["--config", "missing.toml"], "missing.toml"),
        (["--engine", "gpu"], "--engine (engine.kind)"),
        (["--set", 'server.api_keys=[""]'], "server.api_keys"),
        (["--port", "8", "--set", "server.port.x=1"], "server.port"),
    ],
)
def test_wrong_settings_do_not_start_and_say_which(options: list[str], says: str) -> None:
    done = run(*options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def descendants(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    return [pid for child in children for pid in (int(child), *descendants(int(child)))]


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["--api-key", "s3cret-key"], {}),
        ([], {"internvl_server__named_keys": '["alice:s3cret-key"]'}),
    ],
)
def test_no_process_shows_a_key(
    tiny_checkpoint: Path, options: list[str], env: dict[str, str]
) -> None:
    with serving(tiny_checkpoint, *options, env=env) as (process, url):
        assert httpx2.get(f"{url}/v1/models", timeout=60).status_code == 401
        given = {"authorization": "Bearer s3cret-key"}
        answer = httpx2.get(f"{url}/v1/models", headers=given, timeout=60)
        assert answer.status_code == 200
        assert "server" not in answer.headers
        workers = descendants(process.pid)
        assert workers
        for pid in (process.pid, *workers):
            for file in ("cmdline", "environ", "comm"):
                assert b"s3cret" not in Path(f"/proc/{pid}/{file}").read_bytes()


def test_one_port_is_open(tiny_checkpoint: Path) -> None:
    with serving(tiny_checkpoint) as (process, url):
        assert httpx2.get(f"{url}/health", timeout=60).status_code == 200
        inodes = set()
        for pid in (process.pid, *descendants(process.pid)):
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # the connection of the request has ended
                    inodes.add(os.readlink(file))
        lines = [
            line.split()
            for table in ("tcp", "tcp6", "udp", "udp6")
            for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]
        ]
        # TCP that listens, and UDP
        states = ("0A", "07")
        listening = [
            line[1] for line in lines if f"socket:[{line[9]}]" in inodes and line[3] in states
        ]
        assert listening == [f"0100007F:{int(url.rpartition(':')[2]):04X}"]


def test_metrics_may_have_a_separate_port(tiny_checkpoint: Path) -> None:
    port = free_port()
    options = ("--server.metrics-port", str(port), "--api-key", "a-key")
    with serving(tiny_checkpoint, *options) as (process, url):
        assert (
            "internvl_engine_ready 1.0"
            in httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
        )
        assert httpx2.get(f"{url}/metrics", timeout=60).status_code == 404
        taken = run("--port", "0", "--model", str(tiny_checkpoint), *options)
        assert taken.returncode == 1
        assert f"server.metrics_port {port}" in taken.stderr
        process.terminate()
        assert process.wait(60) == 0


def test_sighup_reads_the_keys_file_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("alice:one\n")

    def statuses() -> list[int]:
        keys = [{"x-api-key": key} for key in ("one", "two")]
        return [httpx2.get(f"{url}/v1/models", headers=key, timeout=60).status_code for key in keys]

    with serving(tiny_checkpoint, "--keys-file", str(file)) as (process, url):
        assert process.stderr is not None
        assert statuses() == [200, 401]
        for content, says, expected in [
            ("alice:two\n", "keys accepted: 1", [401, 200]),
            ("nonsense\n", "ERROR internvl_server.api.middleware.keys", [401, 200]),
        ]:
            file.write_text(content)
            process.send_signal(signal.SIGHUP)
            assert any(says in line for line in iter(process.stderr.readline, ""))
            assert statuses() == expected


def test_a_key_is_made_with_its_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = [*COMMAND[:-3], "keys", "alice"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    key, line = [shown.partition(": ")[2].strip() for shown in done.stdout.splitlines()]
    assert parse_key(line) == parse_key(f"alice:{key}")
    wrong = subprocess.run([*command[:-1], "a b"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2


LMDEPLOY_LINE = [
    "serve",
    "OpenGVLab/InternVL3-2B",
    "--chat-template",
    "internvl2_5",
    "--server-port",
    "23333",
    "--tp",
    "1",
]


def children_cpu_s() -> float:
    """Seconds of CPU time of finished child processes, which do not depend on how busy the machine is."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_lmdeploy_line(hub: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run LMDeploy's own line, with an empty cache of the hub and without a network."""
    return subprocess.run(
        [sys.executable, "-m", "internvl_server", *LMDEPLOY_LINE, *options], cwd=ROOT,
        env=os.environ | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip


@without_driver
def test_without_a_driver_the_first_line_says_that_the_cpu_is_used(tmp_path: Path) -> None:
    done = run_lmdeploy_line(tmp_path / "hub")
    first, *rest = done.stderr.splitlines()
    assert first.endswith("no NVIDIA driver was found (libcuda.so.1); using the CPU engine")
    # The line was understood: all that is missing is the model.
    assert "OpenGVLab/InternVL3-2B" in "".join(rest)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@without_driver
def test_turbomind_without_a_driver_ends_before_a_download(tmp_path: Path) -> None:
    before = children_cpu_s()
    done = run_lmdeploy_line(tmp_path / "hub", "--engine", "turbomind")
    assert children_cpu_s() - before < 5
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "no NVIDIA driver was found (libcuda.so.1)" in line
    assert "internvl-server serve --engine cpu" in line
    assert not (tmp_path / "hub").exists()


@without_driver
def test_turbomind_without_a_driver_ends_before_large_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from internvl_server.cli import main; "
        "code = main(['serve', '--engine', 'turbomind']); "
        "print([name for name in ('torch', 'lmdeploy', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("127.0.0.1", "Address already in use. Is another server running there?"),
        ("192.0.2.1", "Cannot assign requested address. Choose another address of this machine"),
    ],
)
def test_an_address_that_cannot_be_listened_on(tiny_checkpoint: Path, host: str, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ["--host", host, "--port", port, "--api-key", "key"]
        done = run("--model", str(tiny_checkpoint), *options)
    assert done.returncode == 1
    assert f"Cannot listen on server.host {host}, server.port {port}: {says}" in done.stderr


def test_wrong_checkpoints_do_not_start_and_say_why(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path / "missing"))
    assert done.returncode == 1
    assert "there is no folder" in done.stderr
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    done = run("--model", str(tmp_path))
    assert done.returncode == 1
    assert "InternVLForConditionalGeneration" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_open_address_needs_keys(tiny_checkpoint: Path) -> None:
    done = run("--host", "0.0.0.0", "--model", str(tiny_checkpoint))
    assert done.returncode == 1
    assert "api_keys" in done.stderr


def test_a_misspelt_environment_name_does_not_start() -> None:
    done = run(env={"INTERNVL_SERVR__PORT": "1"})
    assert done.returncode == 2
    assert "INTERNVL_SERVR__PORT" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": None},
        {"vision_config": {"image_size": [448, 448], "patch_size": [0, 0]}},
        {"template": "internlm2-chat"},
    ],
)
def test_a_broken_config_does_not_start_and_says_so(
    tiny_checkpoint: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    done = run("--model", str(folder), "--port", "0")
    assert done.returncode == 1
    assert re.search(r"^internvl-server: .*config", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_an_engine_that_cannot_load_ends_the_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    next(folder.glob("*.safetensors")).write_bytes(b"nothing")
    done = run("--model", str(folder), "--port", "0", "--engine", "cpu")
    assert done.returncode == 1
    assert "cannot start" in done.stderr


def test_a_taken_port_is_said(tiny_checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--model", str(tiny_checkpoint), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "address already in use" in done.stderr.lower()


def test_settings_come_from_file_environment_and_command_line(tmp_path: Path) -> None:
    from internvl_server.settings.loading import load_settings

    config = tmp_path / "server.toml"
    config.write_text("[server]\nport = 1111\nhost = '::1'\n[engine]\nmax_num_seqs = 3\n")
    settings = load_settings(config, {"server": {"port": "3333"}, "media": {"allowed_ports": [80]}})
    assert settings.server.port == 3333
    assert settings.server.host == "::1"
    assert settings.engine.max_num_seqs == 3


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from internvl_server.settings.loading import load_settings

    config = tmp_path / "server.toml"
    config.write_text("[server]\nport = 1111\n")
    monkeypatch.setenv("INTERNVL_SERVER__PORT", "2222")
    assert load_settings(config, {}).server.port == 2222
