"""Drivers and GPUs that work, and the failures that people meet. The driver is a stand-in."""

import base64
import hashlib
import importlib.metadata
import os
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from internvl_server.doctor import gpus
from internvl_server.planner.gpus import GIB

from tests.nvidia_driver import Driver

TURBOMIND: dict[str, Any] = {"kind": "turbomind"}
ALL = (gpus.driver, gpus.versions, gpus.devices, gpus.gpus, gpus.memory_plan)


def large(**options: Any) -> Driver:
    return Driver(1, sizes=(80 * GIB, 79 * GIB), **options)


@pytest.fixture
def gpu_subject(subject):
    """Subjects with the TurboMind engine."""

    def make(model: str = "OpenGVLab/InternVL3-8B", **turbomind: Any):
        return subject(engine=TURBOMIND | {"turbomind": turbomind}, model={"path": model})

    return make


def test_a_machine_that_can_serve(found, gpu_subject, machine):
    machine(large())
    lines = [line for check in ALL for line in found(check, gpu_subject())]
    assert [level for level, _ in lines] == ["ok"] * 4
    driver, versions, gpu, plan = (text for _, text in lines)
    assert "CUDA 13.0, which shows 1 GPU(s)" in driver
    assert "suit the driver" in versions
    assert gpu.startswith("GPU 0: compute capability 8.0, 80.0 GiB, of which 79.0 GiB are free.")
    assert plan.startswith("InternVL3-8B fits: 14.8 GiB of weights")


def test_no_driver_matters_to_the_gpu_engine_alone(
    found, subject, gpu_subject, machine, monkeypatch
):
    machine(None)
    monkeypatch.setattr(gpus, "_KERNEL_DRIVER", Path("/none"))
    [(level, text)] = found(gpus.driver, gpu_subject())
    assert level == "error"
    assert "libcuda.so.1" in text
    assert [level for level, _ in found(gpus.driver, subject(engine={"kind": "cpu"}))] == ["ok"]
    assert [found(check, gpu_subject()) for check in ALL[1:4]] == [[], [], []]


def test_a_container_without_the_library(
    found, subject, gpu_subject, machine, monkeypatch, tmp_path
):
    machine(None)
    monkeypatch.setattr(gpus, "_KERNEL_DRIVER", tmp_path)
    [(level, text)] = found(gpus.driver, gpu_subject())
    assert level == "error"
    assert "--gpus all" in text
    [(level, _)] = found(gpus.driver, subject(engine={"kind": "cpu"}))
    assert level == "warning"


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (34, "LD_LIBRARY_PATH"),
        (100, "CUDA_VISIBLE_DEVICES"),
        (802, "nvidia-fabricmanager"),
        (803, "Restart the machine"),
        (804, "cuda-compat"),
        (999, "/dev/nvidia-uvm"),
        (3, "dmesg"),
    ],
)
def test_a_driver_that_does_not_start(found, gpu_subject, machine, status, remedy):
    machine(Driver(1, status))
    [(level, text)] = found(gpus.driver, gpu_subject())
    assert level == "error"
    assert f"cuInit answers {status}: " in text
    assert remedy in text


def test_hidden_gpus(found, gpu_subject, machine):
    machine(Driver(0))
    [(level, text)] = found(gpus.driver, gpu_subject())
    assert level == "error"
    assert "shows no GPU" in text


@pytest.mark.parametrize(
    ("driver", "options", "says"),
    [
        (large(cuda=(12, 2)), {}, r"supports CUDA 12.2, but torch for CUDA 13.0"),
        (large(), {"torch_cuda": None}, "not a build for CUDA"),
        (large(), {"version": None}, "LMDeploy 0.18.0 is not installed"),
        (large(), {"version": "0.17.0"}, "0.17.0 is installed"),
    ],
)
def test_packages_that_do_not_suit(found, subject, gpu_subject, machine, driver, options, says):
    machine(driver, **options)
    [(level, text)] = found(gpus.versions, gpu_subject())
    assert level == "error"
    assert says in text
    assert "--engine cpu" in text
    [(level, text)] = found(gpus.versions, subject(engine={"kind": "cpu"}))
    assert level == "warning"


def test_an_old_gpu(found, gpu_subject, machine):
    machine(large(capability=(7, 0)))
    [(level, text)] = found(gpus.gpus, gpu_subject())
    assert level == "error"
    assert "compute capability 7.0" in text


def test_a_gpu_without_bfloat16(found, gpu_subject, machine):
    machine(large(capability=(7, 5)))
    [(first, _), (second, text)] = found(gpus.gpus, gpu_subject())
    assert (first, second) == ("ok", "warning")
    assert "--dtype float16" in text
    assert [level for level, _ in found(gpus.gpus, gpu_subject(dtype="float16"))] == ["ok"]


def test_a_gpu_that_others_use(found, gpu_subject, machine):
    machine(Driver(1, sizes=(80 * GIB, 30 * GIB)))
    [_, (level, text)] = found(gpus.gpus, gpu_subject())
    assert level == "warning"
    assert "Other programs use 50.0 GiB of GPU 0" in text


def test_gpus_that_are_not_there(found, gpu_subject, machine):
    machine(large())
    assert found(gpus.devices, gpu_subject()) == []
    [(level, text)] = found(gpus.devices, gpu_subject(tp=2))
    assert level == "error"
    assert "asks for 2 GPUs" in text
    assert "ok" in dict(found(gpus.gpus, gpu_subject(tp=2)))
    [(level, text)] = found(gpus.devices, gpu_subject(devices=[3]))
    assert level == "error"
    assert "names GPU 3" in text


def test_the_gpus_that_the_settings_name_are_checked(found, gpu_subject, machine):
    machine(Driver(3))  # GPU n has n + 1 GiB
    [(_, text)] = found(gpus.gpus, gpu_subject(devices=[2]))
    assert text.startswith("GPU 2: ")
    [(level, text)] = found(gpus.memory_plan, gpu_subject("OpenGVLab/InternVL3-1B", devices=[2]))
    assert level == "error"
    assert "InternVL3-1B does not fit 1 GPU(s) of 3.0 GiB" in text


def test_a_model_that_does_not_fit(found, gpu_subject, machine):
    machine(large())
    [(level, text)] = found(gpus.memory_plan, gpu_subject("OpenGVLab/InternVL3-78B"))
    assert level == "error"
    assert "Change one of" in text
    assert found(gpus.memory_plan, gpu_subject("someone/unknown")) == []


def test_a_driver_that_does_not_report_memory(found, gpu_subject, machine, monkeypatch):
    machine(large())
    monkeypatch.setattr(gpus, "read_gpu", lambda index: None)
    [(level, _)] = found(gpus.gpus, gpu_subject())
    assert level == "warning"
    assert found(gpus.memory_plan, gpu_subject()) == []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Packages that install libnccl.so.2 with some content; the file has that of one of them."""

    def install(present: str, **contents: str) -> None:
        path = tmp_path / "libnccl.so.2"
        path.write_text(present)

        def distribution(name: str) -> Any:
            key = name.rpartition("-")[2]
            if key not in contents:
                raise importlib.metadata.PackageNotFoundError(name)
            digest = hashlib.sha256(contents[key].encode()).digest()
            value = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            file = importlib.metadata.PackagePath(gpus._NCCL_FILE)
            file.hash = importlib.metadata.FileHash(f"sha256={value}")
            return SimpleNamespace(files=[file], locate_file=lambda name: path)

        monkeypatch.setattr(importlib.metadata, "distribution", distribution)

    return install


def test_whose_nccl_is_installed(found, gpu_subject, installed):
    installed("old", cu12="new", cu13="old")
    [(level, text)] = found(gpus.nccl, gpu_subject())
    assert level == "error"
    assert "--force-reinstall nvidia-nccl-cu12" in text
    installed("new", cu12="new", cu13="old")
    assert [level for level, _ in found(gpus.nccl, gpu_subject())] == ["ok"]
    installed("new", cu12="new")
    assert found(gpus.nccl, gpu_subject()) == []


def test_what_nccl_needs_of_the_system(found, gpu_subject, monkeypatch):
    def have(num_bytes: int, locked: int) -> None:
        stat = SimpleNamespace(f_frsize=4096, f_blocks=num_bytes // 4096)
        monkeypatch.setattr(gpus, "os", SimpleNamespace(statvfs=lambda path: stat, sep=os.sep))
        monkeypatch.setattr(resource, "getrlimit", lambda which: (locked, locked))

    have(64 << 20, 65_536)
    assert found(gpus.shared_memory, gpu_subject()) == []
    lines = found(gpus.shared_memory, gpu_subject(tp=2))
    assert [level for level, _ in lines] == ["warning", "warning"]
    assert "64 MiB" in lines[0][1]
    assert "Only 64 KiB" in lines[1][1]
    have(8 * GIB, resource.RLIM_INFINITY)
    assert found(gpus.shared_memory, gpu_subject(tp=2)) == []
