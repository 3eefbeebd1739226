"""Memory, files, folders and processes: enough of them, and too few."""

import resource
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from internvl_server.doctor import host
from internvl_server.planner.gpus import GIB
from internvl_server.planner.models import MODELS
from internvl_server.planner.sizes import cpu_bytes, file_bytes
from internvl_server.settings import DEMO_MODEL

ONE_B = MODELS["InternVL3-1B"]


@pytest.fixture
def one_b(subject, tmp_path):
    """A subject with InternVL3-1B, which is not here, on the CPU."""

    def make(**cpu):
        model = {"path": "OpenGVLab/InternVL3-1B", "download_dir": str(tmp_path)}
        return subject(model=model, engine={"kind": "cpu", "cpu": cpu})

    return make


@pytest.mark.parametrize(
    ("available", "level"),
    [(200 * GIB, "ok"), (cpu_bytes(ONE_B, "float32"), "warning"), (2 * GIB, "error")],
)
def test_the_memory_of_a_model(found, one_b, monkeypatch, available, level):
    monkeypatch.setattr(host, "available_bytes", lambda: available)
    assert [one for one, _ in found(host.memory, one_b())] == [level]


def test_the_memory_follows_from_the_settings(found, one_b, monkeypatch):
    monkeypatch.setattr(host, "available_bytes", lambda: cpu_bytes(ONE_B, "bfloat16"))
    assert [level for level, _ in found(host.memory, one_b())] == ["error"]
    for settings in ({"dtype": "bfloat16"}, {"dtype": "auto"}):
        assert [level for level, _ in found(host.memory, one_b(**settings))] == ["warning"]
    larger = {"dtype": "bfloat16", "kv_cache_bytes": 2 * GIB}
    assert [level for level, _ in found(host.memory, one_b(**larger))] == ["error"]
    monkeypatch.setattr(host, "available_bytes", lambda: cpu_bytes(ONE_B, "int8"))
    assert [level for level, _ in found(host.memory, one_b(quantization="int8"))] == ["warning"]


def test_memory_that_is_not_known(found, subject, one_b, monkeypatch):
    monkeypatch.setattr(host, "available_bytes", lambda: None)
    assert found(host.memory, one_b()) == []
    monkeypatch.setattr(host, "available_bytes", lambda: GIB)
    assert found(host.memory, subject(model={"path": "a/b"}, engine={"kind": "cpu"})) == []
    assert [x for x, _ in found(host.memory, subject(engine={"kind": "echo"}))] == ["warning"]
    assert [x for x, _ in found(host.memory, subject(engine={"kind": "turbomind"}))] == ["error"]


def limit(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (number, number))


@pytest.mark.parametrize(
    ("number", "level"), [(resource.RLIM_INFINITY, "ok"), (3328, "ok"), (1024, "warning")]
)
def test_open_files(found, subject, monkeypatch, number, level):
    limit(monkeypatch, number)
    [(found_level, text)] = found(host.open_files, subject())
    assert found_level == level
    assert "3,328" in text
    fewer = subject(limits={"max_connections": 100})
    assert [x for x, _ in found(host.open_files, fewer)] == ["warning" if number == 1024 else "ok"]


@pytest.mark.parametrize(
    ("number", "group", "levels"),
    [
        (-1, "max", []),
        (-1, "", []),
        (100, "max", ["warning"]),
        (-1, "64", ["warning"]),
        (4096, "4096", []),
    ],
)
def test_processes(found, subject, monkeypatch, tmp_path, number, group, levels):
    limit(monkeypatch, number)
    monkeypatch.setattr(host, "_PIDS_LIMIT", tmp_path / "pids.max")
    if group:
        (tmp_path / "pids.max").write_text(group)
    assert [level for level, _ in found(host.processes, subject())] == levels


def test_the_temporary_folder(found, subject, monkeypatch, tmp_path):
    assert [level for level, _ in found(host.temporary_folder, subject())] == ["ok"]

    def refuse(*arguments: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    [(level, text)] = found(host.temporary_folder, subject())
    assert level == "warning"
    assert "TMPDIR" in text


def test_the_folder_of_downloads(found, subject, one_b, monkeypatch, tmp_path):
    assert found(host.download_folder, subject(model={"path": str(DEMO_MODEL)})) == []
    assert [level for level, _ in found(host.download_folder, one_b())] == ["ok"]

    free = SimpleNamespace(free=file_bytes(ONE_B) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    [(level, text)] = found(host.download_folder, one_b())
    assert level == "error"
    assert "1.7 GiB" in text


def test_a_folder_of_downloads_that_cannot_be_written(found, subject, one_b, tmp_path):
    model = {"path": "a/b", "download_dir": "/proc/self/hub"}
    [(level, text)] = found(host.download_folder, subject(model=model, engine={"kind": "echo"}))
    assert level == "error"
    assert "model.download_dir" in text


def test_a_folder_of_downloads_that_does_not_exist_yet(found, subject, tmp_path):
    model = {"path": "a/b", "download_dir": str(tmp_path / "x" / "y")}
    echo = {"kind": "echo"}
    assert [
        level for level, _ in found(host.download_folder, subject(model=model, engine=echo))
    ] == ["ok"]
    assert not Path(tmp_path / "x").exists()


def test_processes_that_decode(found, subject):
    for check in (host.image_processes, host.video_processes):
        [(level, text)] = found(check, subject())
        assert level == "ok"
        assert "seccomp" in text


def test_processes_without_a_filter(found, subject, monkeypatch):
    monkeypatch.setattr(
        "internvl_server.media.workers.process.rules_for",
        lambda has_threads: b'{"seccomp": 0, "program": "", "has_threads": false}',
    )
    [(level, text)] = found(host.image_processes, subject())
    assert level == "warning"
    assert "not filtered" in text


def test_processes_that_do_not_start(found, subject, monkeypatch):
    monkeypatch.setattr("internvl_server.media.workers.process.sys.executable", "/usr/bin/false")
    [(level, text)] = found(host.image_processes, subject())
    assert level == "error"
    assert "do not start" in text
