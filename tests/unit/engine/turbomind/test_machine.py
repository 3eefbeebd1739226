"""What the turbomind engine says on machines it cannot run on, and which settings it refuses. No LMDeploy."""

import time

import pytest
from internvl_server.cli import main
from internvl_server.engine.turbomind.machine import check_machine
from internvl_server.errors import StartupError
from internvl_server.settings import TurbomindSettings
from pydantic import ValidationError

from tests.nvidia_driver import Driver


@pytest.mark.parametrize(
    ("driver", "version", "says"),
    [
        (None, None, "no NVIDIA driver"),
        (Driver(0, 100), None, "shows no GPU"),
        (Driver(0), None, "shows no GPU"),
        (Driver(1), None, r"internvl-server\[turbomind\]"),
        (Driver(1), "0.17.0", "0.17.0 is installed"),
        (Driver(1), "0.18.0", "asks for 2 GPUs"),
    ],
)
def test_a_machine_that_cannot_run_it(machine, driver, version, says):
    machine(driver, version)
    with pytest.raises(StartupError, match=says):
        check_machine(2)


def test_a_machine_that_can(machine):
    machine(Driver(2))
    assert check_machine(2) == (1 << 30, 2 << 30)


def test_a_model_that_does_not_fit_does_not_start(machine, capsys):
    """The driver's GPUs are far too small: the plan says so before the hub is asked for anything."""
    machine(Driver(1))
    assert main(["serve", "--engine", "turbomind", "--model", "OpenGVLab/InternVL3-8B"]) == 1
    assert "fit" in capsys.readouterr().err


def test_serve_without_a_gpu_ends_at_once(machine, capsys):
    machine(None)
    start = time.monotonic()
    # The model's name would be downloaded: the machine is looked at first.
    assert main(["serve", "--engine", "turbomind", "--model", "nobody/nothing"]) == 1
    assert time.monotonic() - start < 5
    message = capsys.readouterr().err
    assert "no NVIDIA driver" in message
    assert "--engine cpu" in message


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tp": 3, "nnodes": 2, "dist_init_addr": "a:1"}, "multiple"),
        ({"tp": 2, "devices": (0,)}, "devices"),
        ({"tp": 2, "devices": (0, 0)}, "devices"),
        ({"node_rank": 1}, "node_rank"),
        ({"tp": 2, "nnodes": 2}, "dist_init_addr"),
        ({"dist_init_addr": "a:1"}, "dist_init_addr"),
        ({"tp": 2, "nnodes": 2, "dist_init_addr": "a:1", "communicator": "cuda-ipc"}, "nccl"),
        ({"dist_init_addr": "no port"}, "pattern"),
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
    TurbomindSettings(tp=4, nnodes=2, node_rank=1, devices=(2, 3), dist_init_addr="a:1")
