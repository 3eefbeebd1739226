"""`internvl-server download` as a process, from a hub on loopback. The hub's library reads HF_… at import."""

import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from internvl_server.checkpoint.weights import INDEX_NAME, inspect_weights

from scripts.make_random_checkpoint import SHAPES, write_checkpoint
from tests.hub import COMMIT, Hub, serve_hub

ROOT = Path(__file__).parents[2]
NAME = "OpenGVLab/InternVL3-1B-hf"
SHARD = "model-00004.safetensors"  # of eight
COMMAND = [sys.executable, "-m", "internvl_server", "download"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A checkpoint in several shards, and what a repository has besides."""
    folder = tmp_path_factory.mktemp("published")
    write_checkpoint(folder, SHAPES["tiny"], layout="hf", dtype="float16")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {INDEX_NAME, SHARD} <= found.keys()
    others = (
        "README.md",
        ".gitattributes",
        "pytorch_model.bin",
        "onnx/config.json",
        "onnx/model.onnx",
    )
    return found | dict.fromkeys(others, b"not needed")


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    with serve_hub(Hub({NAME: dict(files)})) as served:
        yield served


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    added = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return inherited | added


def run(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip


def refused(environment: dict[str, str], *options: str) -> str:
    done = run(environment, *options)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    return done.stderr


def asked(hub: Hub) -> set[str]:
    return {file for file, _ in hub.got}


def needed(files: dict[str, bytes]) -> set[str]:
    kinds = (".json", ".jinja", ".txt", ".safetensors")
    return {name for name in files if "/" not in name and name.endswith(kinds)}


def test_to_a_folder(hub, environment, files, tmp_path):
    folder = tmp_path / "my models"
    done = run(environment, NAME, "--to", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}\ninternvl-server serve '{folder}'\n"
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    found.pop(".gitignore", None)
    assert found == {name: files[name] for name in needed(files)}
    assert f"{SHARD} (0.0 GiB)" in done.stderr
    assert "%|" not in done.stderr
    assert run(environment, NAME, "--to", str(folder)).returncode == 0
    assert len(hub.got) == len(found)


def test_to_where_serve_looks(hub, environment, files, tmp_path):
    done = run(environment, "internvl3-1b", "--revision", "main")
    assert done.returncode == 0, done.stderr
    folder, command = done.stdout.splitlines()
    assert command == f"internvl-server serve {NAME} --revision main"
    assert Path(folder).name == COMMIT
    assert asked(hub) == needed(files)
    program = (
        "from internvl_server.checkpoint.files import find_folder, load_checkpoint\n"
        "from internvl_server.settings import ModelSettings\n"
        f"settings = ModelSettings(path={NAME!r}, revision='main')\n"
        "assert load_checkpoint(settings).path == find_folder(settings)\n"
        "print(find_folder(settings))"
    )
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    found = subprocess.check_output([sys.executable, "-c", program], env=offline, text=True)
    assert found.strip() == folder


def test_to_the_folder_of_the_settings(environment, tmp_path):
    kept = tmp_path / "kept"
    done = run(environment | {"INTERNVL_MODEL__DOWNLOAD_DIR": str(kept)}, NAME)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(kept)
    wrong = run(environment | {"INTERNVL_MODLE__PATH": "x"}, NAME)
    assert wrong.returncode == 2
    assert "INTERNVL_MODLE__PATH" in wrong.stderr


def test_a_broken_connection_is_continued(hub, environment, tmp_path):
    """The library writes 10 MiB at a time."""
    hub.repositories[NAME]["model-00009.safetensors"] = data = os.urandom(23 << 20)
    hub.cuts["model-00009.safetensors"] = 21 << 20
    done = run(environment, NAME, "--to", str(tmp_path / "to"))
    assert done.returncode == 0, done.stderr
    ranges = [header for file, header in hub.got if file == "model-00009.safetensors"]
    assert ranges == [None, f"bytes={20 << 20}-"]
    assert (tmp_path / "to" / "model-00009.safetensors").read_bytes() == data


@pytest.mark.parametrize("options", [("--to", "to"), ()], ids=["folder", "cache"])
def test_a_second_run_continues_the_first(hub, environment, files, tmp_path, options):
    options = [str(tmp_path / word) if word == "to" else word for word in options]
    hub.cuts[SHARD] = 1000
    hub.broken.add(SHARD)
    message = refused(environment, NAME, *options)
    assert f"{NAME} could not be downloaded" in message
    assert "run the command again" in message
    before = asked(hub)
    assert len(before) > 2
    hub.got.clear()
    hub.broken.clear()
    done = run(environment, NAME, *options)
    assert done.returncode == 0, done.stderr
    assert asked(hub) == {SHARD} | (needed(files) - before)
    assert inspect_weights(Path(done.stdout.splitlines()[0])).problems == ()


def test_a_file_that_was_cut_off_is_fetched_again(hub, environment, tmp_path):
    folder = tmp_path / "to"
    assert run(environment, NAME, "--to", str(folder)).returncode == 0
    with (folder / SHARD).open("r+b") as file:
        file.truncate(100)
    hub.got.clear()
    assert run(environment, NAME, "--to", str(folder)).returncode == 0
    assert asked(hub) == {SHARD}
    assert inspect_weights(folder).problems == ()


def test_an_interrupt(hub, environment, tmp_path):
    hub.cuts[SHARD] = 1000
    hub.held.add(SHARD)
    process = subprocess.Popen(
        [*COMMAND, NAME, "--to", str(tmp_path / "to")],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert hub.reached.wait(240)
    process.send_signal(signal.SIGINT)
    output, message = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert output == ""
    assert message.endswith("Files that are complete are kept: run the command again.\n")


def test_too_little_room(hub, environment, tmp_path):
    hub.sizes[SHARD] = 1 << 50
    message = refused(environment, NAME, "--to", str(tmp_path / "to"))
    assert "needs 1048576.0 GiB more" in message
    assert str(tmp_path / "to") in message
    assert hub.got == []


def test_a_file_that_is_not_as_long_as_the_hub_says(hub, environment, tmp_path):
    hub.sizes[SHARD] = 10
    message = refused(environment, NAME, "--to", str(tmp_path / "to"))
    assert f"{SHARD} is not complete" in message


def test_a_repository_without_one_of_its_shards(hub, environment, tmp_path):
    del hub.repositories[NAME][SHARD]
    message = refused(environment, NAME, "--to", str(tmp_path / "to"))
    assert f"{SHARD} is missing" in message


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((403, "GatedRepo"), "is gated. Accept its conditions"),
        (
            (401, "RepoNotFound"),
            "There is no repository OpenGVLab/InternVL3-1B-hf on the hub, or it",
        ),
        ((500, ""), "could not be downloaded from the hub (HfHubHTTPError"),
    ],
)
def test_a_hub_that_refuses(hub, environment, refusal, says):
    hub.refusals = {NAME: refusal}
    assert says in refused(environment, NAME)


def test_names_that_the_hub_does_not_have(hub, environment):
    assert "no repository someone/else" in refused(environment, "someone/else")
    assert "no revision 'v9'" in refused(environment, NAME, "--revision", "v9")


def test_a_repository_that_is_no_checkpoint(hub, environment):
    del hub.repositories[NAME]["config.json"]
    assert "is not a checkpoint that can be served" in refused(environment, NAME)
    assert hub.got == []


def test_no_network(environment):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        message = refused(environment | {"HF_ENDPOINT": url}, NAME)
    assert "ConnectError" in message
    assert "Without a network, copy the folder" in message
    assert "HF_HUB_OFFLINE is set" in refused(environment | {"HF_HUB_OFFLINE": "1"}, NAME)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "internvl3-3b",
            "There is no model 'internvl3-3b'. Write OWNER/REPOSITORY, or one of internvl2.5-1b",
        ),
        ("internvl2.5-26b", "It is not published"),
        ("OpenGVLab/InternVL3-9B", "Serve OpenGVLab/InternVL3-9B-hf"),
        ("a/b/c", "There is no model"),
        ("../x", "is a path. A folder is served without a download"),
        ("/models", "is a path."),
        ("~/internvl", "is a path."),
        ("owner/-x", "There is no model"),
        ("owner/", "There is no model"),
    ],
)
def test_names_that_are_refused_without_asking(hub, environment, name, says):
    assert says in refused(environment, name)
    assert hub.got == []


def test_bars_on_a_terminal(environment, tmp_path):
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (24, 100))
    try:
        done = subprocess.run(
            [*COMMAND, NAME, "--to", str(tmp_path / "to")],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=other_end, timeout=240, check=True,
        )  # fmt: skip
        os.close(other_end)
        shown = b""
        while block := read(terminal):
            shown += block
    finally:
        os.close(terminal)
    assert b"%|" in shown
    assert b"GiB)" not in shown
    assert done.stdout.count(b"\n") == 2


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
