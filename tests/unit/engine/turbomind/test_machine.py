"""What the turbomind engine says on machines it cannot run on, and which settings it refuses. No LMDeploy."""

import time
from unittest.mock import patch

import pytest
from internvl_server.cli import main
from internvl_server.engine.turbomind.machine import check_machine
from internvl_server.engine.turbomind.machine.packages import torch_cuda
from internvl_server.errors import StartupError
from internvl_server.planner.gpus import GIB, GpuMemory
from internvl_server.settings import TurbomindSettings
from pydantic import ValidationError

from scripts.make_random_checkpoint import SHAPES, write_checkpoint
from tests.nvidia_driver import Driver, DriverOnBus, Nvml

OLD = r"driver supports CUDA 12\.2, but torch for CUDA 13\.0 .* need CUDA 13\.0 or newer \(driver 580\)"


@pytest.mark.parametrize(
    ("driver", "version", "says"),
    [
        (None, None, "no NVIDIA driver"),
        (Driver(0, 100), None, "shows no GPU"),
        (Driver(0), None, "shows no GPU"),
        (Driver(1), None, r"internvl-server\[turbomind\]"),
        (Driver(1), "0.17.0", "0.17.0 is installed"),
        (Driver(1), "0.18.0", "asks for 2 GPUs"),
        (Driver(1), "0.18.0+cu128", "asks for 2 GPUs"),
        (Driver(2, cuda=(12, 2)), "0.18.0", OLD),
        (
            Driver(2, capability=(7, 0)),
            "0.18.0",
            r"GPU 0 has compute capability 7\.0, .* needs 7\.5",
        ),
    ],
)
def test_a_machine_that_cannot_run_it(machine, driver, version, says):
    machine(driver, version)
    with pytest.raises(StartupError, match=says):
        check_machine(TurbomindSettings(tp=2))


@pytest.mark.parametrize(
    ("driver", "says"),
    [
        (Driver(1, cuda=(12, 0)), r"CUDA 12\.0, .* need CUDA 12\.1 or newer \(driver 530\)"),
        (Driver(1, capability=(6, 1)), r"capability 6\.1, .* needs 7\.0"),
        (Driver(1, capability=(12, 0)), r"capability 12\.0, .* CUDA 12\.8 or newer; .* for 12\.6"),
        (Driver(1, cuda=(12, 2), capability=(7, 0)), ""),
    ],
)
def test_torch_for_cuda_12_suits_older_drivers_and_gpus(machine, driver, says):
    machine(driver, torch_cuda=(12, 6))
    if not says:
        assert check_machine(TurbomindSettings()) == (GpuMemory(GIB, GIB),)
        return
    with pytest.raises(StartupError, match=says):
        check_machine(TurbomindSettings())


def test_torch_for_the_cpu_is_refused(machine):
    machine(Driver(1), torch_cuda=None)
    with pytest.raises(StartupError, match="torch is not a build for CUDA"):
        check_machine(TurbomindSettings())


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '13.0'", (13, 0)),
        ("cuda = '12.6'", (12, 6)),
        ("cuda: Optional[str] = None", None),
    ],
)
def test_the_build_of_torch_is_read_from_its_files(tmp_path, text, cuda):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/version.py").write_text(f"__version__ = '2.12.1'\ndebug = False\n{text}\n")
    with patch("importlib.metadata.distribution") as found:
        found.return_value.locate_file = tmp_path.joinpath
        assert torch_cuda() == cuda


def test_a_machine_that_can(machine):
    machine(Driver(2))
    assert check_machine(TurbomindSettings(tp=2)) == (
        GpuMemory(GIB, GIB),
        GpuMemory(2 * GIB, 2 * GIB),
    )


def test_only_the_gpus_asked_for_count(machine):
    machine(Driver(2))
    assert check_machine(TurbomindSettings(devices=(1,))) == (GpuMemory(2 * GIB, 2 * GIB),)
    with pytest.raises(StartupError, match="names GPU 5, but the NVIDIA driver shows 2"):
        check_machine(TurbomindSettings(devices=(5,)))


def test_memory_that_others_use_is_not_free(machine):
    """The management library is asked first, because it needs no CUDA context."""
    machine(driver := Driver(1, sizes=(24 * GIB, 3 * GIB)))
    assert check_machine(TurbomindSettings()) == (GpuMemory(24 * GIB, 3 * GIB),)
    machine(driver := DriverOnBus(1, sizes=(24 * GIB, 3 * GIB)), nvml=Nvml(24 * GIB, 4 * GIB))
    assert check_machine(TurbomindSettings()) == (GpuMemory(24 * GIB, 4 * GIB),)
    assert driver.contexts == 0


def test_of_a_shared_card_only_the_slice_counts(machine):
    machine(driver := DriverOnBus(1, sizes=(10 * GIB, 9 * GIB)), nvml=Nvml(80 * GIB, 70 * GIB))
    assert check_machine(TurbomindSettings()) == (GpuMemory(10 * GIB, 9 * GIB),)
    assert driver.contexts == 0


NAMED = "OpenGVLab/InternVL3-8B-hf"


@pytest.mark.parametrize(
    ("driver", "options", "numbers"),
    [
        (Driver(1, cuda=(12, 2)), (), ("12.2", "13.0")),
        (Driver(1, sizes=(24 * GIB, 3 * GIB)), (), ("24.0 GiB", "3.0 GiB")),
        (Driver(2), ("--set", "engine.turbomind.devices=[2]"), ("GPU 2", "shows 2")),
        (Driver(1), (), ("fit", "1.0 GiB")),
    ],
)
def test_serve_refuses_before_a_download(machine, capsys, driver, options, numbers):
    machine(driver)
    with patch("internvl_server.app.load_checkpoint") as load:
        assert main(["serve", "--engine", "turbomind", "--model", NAMED, *options]) == 1
    load.assert_not_called()
    message = capsys.readouterr().err
    assert all(number in message for number in numbers), message


def test_an_unknown_model_is_refused_before_its_weights_are_downloaded(machine, capsys, tmp_path):
    """Only its config.json is fetched, which says the sizes."""
    write_checkpoint(tmp_path, SHAPES["tiny"])
    machine(Driver(1, sizes=(24 * GIB, GIB // 10)))
    with patch("huggingface_hub.snapshot_download", return_value=str(tmp_path)) as download:
        assert main(["serve", "--engine", "turbomind", "--model", "someone/finetune"]) == 1
    assert [call.kwargs["allow_patterns"] for call in download.call_args_list] == [["config.json"]]
    message = capsys.readouterr().err
    assert "24.0 GiB, of which 0.1 GiB are free" in message, message


def test_serve_without_a_gpu_ends_at_once(machine, capsys):
    machine(None)
    start = time.monotonic()
    # The model's name would be downloaded: the machine is checked first.
    assert main(["serve", "--engine", "turbomind", "--model", "nobody/nothing"]) == 1
    assert time.monotonic() - start < 5
    message = capsys.readouterr().err
    assert "no NVIDIA driver" in message
    assert "--engine cpu" in message


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"nnodes": 2}, "nnodes must be 1: LMDeploy 0.18 does not carry images"),
        ({"dp": 2}, "dp must be 1: start one server for each copy"),
        ({"tp": 2, "devices": (0,)}, "devices"),
        ({"tp": 2, "devices": (0, 0)}, "devices"),
        ({"quant_policy": 3}, "0, 4 or 8"),
        ({"cache_max_entry_count": 1.5}, "less than 1"),
        ({"session_len": 1}, "not permitted"),
    ],
)
def test_settings_that_contradict(values, says):
    with pytest.raises(ValidationError, match=says):
        TurbomindSettings(**values)


def test_settings_that_agree():
    assert TurbomindSettings(quant_policy="8").quant_policy == 8
    TurbomindSettings(tp=2, devices=(2, 3))
