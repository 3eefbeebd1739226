"""Which engine is chosen, and what the server says about it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from internvl_server.app import create_app
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine import loader
from internvl_server.engine.loader import (
    check_backend,
    choose_engine,
    load_engine,
    unused_settings,
)
from internvl_server.errors import StartupError
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import DEMO_MODEL, EngineSettings, Settings

from tests.nvidia_driver import Driver

Machine = Callable[..., None]

HUB_MODEL = {"path": "OpenGVLab/InternVL3-2B"}


@pytest.mark.parametrize(
    ("driver", "version", "kind", "reason"),
    [
        (None, "0.18.0", "cpu", "no NVIDIA driver was found (libcuda.so.1); using the CPU engine"),
        (Driver(0), "0.18.0", "cpu", "the NVIDIA driver shows no GPU; using the CPU engine"),
        (Driver(1, status=100), "0.18.0", "cpu", "the NVIDIA driver shows no GPU; using"),
        (Driver(1), None, "cpu", "LMDeploy 0.18.0 is not installed"),
        (
            Driver(1),
            "0.17.0",
            "cpu",
            "LMDeploy 0.17.0 is installed, but this server is tested with",
        ),
        (Driver(2), "0.18.0", "turbomind", "2 NVIDIA GPU(s) were found; using the TurboMind"),
    ],
)
def test_auto(
    machine: Machine, driver: Driver | None, version: str | None, kind: str, reason: str
) -> None:
    machine(driver, version)
    engine, sentence = choose_engine(Settings(model=HUB_MODEL))
    assert engine.kind == kind
    assert reason in sentence


@pytest.mark.parametrize(
    "path", [DEMO_MODEL, os.path.relpath(DEMO_MODEL)], ids=["full", "relative"]
)
def test_auto_serves_the_demo_model_on_the_cpu(machine: Machine, path: str | Path) -> None:
    machine(Driver(1))
    engine, sentence = choose_engine(Settings(model={"path": str(path)}))
    assert engine.kind == "cpu"
    assert "demo model" in sentence


@pytest.mark.parametrize("kind", ["cpu", "turbomind", "echo"])
def test_a_set_engine_is_kept(machine: Machine, kind: str) -> None:
    machine(None)
    engine, sentence = choose_engine(Settings(engine={"kind": kind}))
    assert engine.kind == kind
    assert f"engine.kind is {kind}" in sentence


def test_too_few_gpus_are_an_error_and_no_reason_for_the_cpu(machine: Machine) -> None:
    machine(Driver(1))
    engine, _ = choose_engine(Settings(model=HUB_MODEL, engine={"turbomind": {"tp": 2}}))
    with pytest.raises(StartupError, match="asks for 2 GPUs"):
        check_backend(engine)


def test_the_cpu_engine_needs_pytorch_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    engine, _ = choose_engine(Settings(engine={"kind": "cpu"}))
    with pytest.raises(StartupError, match=r"'torch': install internvl-server\[cpu\]"):
        check_backend(engine)


@pytest.mark.parametrize(
    ("kind", "dtype", "found"),
    [
        ("cpu", "auto", "bfloat16"),
        ("cpu", "float32", "float32"),
        ("turbomind", "auto", "float16"),
        ("turbomind", "bfloat16", "bfloat16"),
    ],
)
def test_dtype_is_that_of_the_engine_that_runs(kind: str, dtype: str, found: str) -> None:
    sections = {"cpu": {"dtype": "bfloat16"}, "turbomind": {"dtype": "float16"}}
    engine, _ = choose_engine(Settings(engine={"kind": kind, "dtype": dtype, **sections}))
    assert getattr(engine, kind).dtype == found


@pytest.mark.parametrize(
    ("kind", "dtype", "possible"),
    [("cpu", "float16", "float32 or bfloat16"), ("turbomind", "float32", "float16 or bfloat16")],
)
def test_an_impossible_dtype_is_refused(kind: str, dtype: str, possible: str) -> None:
    with pytest.raises(StartupError, match=f"{dtype}, but the .* engine takes {possible}"):
        choose_engine(Settings(engine={"kind": kind, "dtype": dtype}))


def test_settings_of_other_engines_are_named() -> None:
    engine: dict[str, Any] = {
        "kind": "cpu",
        "turbomind": {"tp": 1, "quant_policy": 8},
        "cpu": {"num_threads": 2},
    }
    assert list(unused_settings(Settings(engine=engine).engine)) == [
        "engine.turbomind.quant_policy"
    ]


def test_the_choice_is_logged_before_a_download(
    machine: Machine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(None)

    def load_checkpoint(settings: object) -> None:
        logging.getLogger("test").info("download")
        raise StartupError("stop here")

    monkeypatch.setattr("internvl_server.app.load_checkpoint", load_checkpoint)
    caplog.set_level("INFO")
    with pytest.raises(StartupError, match="stop here"):
        create_app(Settings(model=HUB_MODEL, engine={"turbomind": {"tp": 2}}))
    assert caplog.messages == [
        "no NVIDIA driver was found (libcuda.so.1); using the CPU engine",
        "the cpu engine does not use engine.turbomind.tp",
        "download",
    ]


def test_native_libraries_are_quiet_and_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """TurboMind logs each request at its default level; the user's own level is kept."""
    for name in ("TM_LOG_LEVEL", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    checkpoint = load_checkpoint(Settings().model)
    vocabulary = load_tokenizer(checkpoint.path).vocabulary
    turbomind = EngineSettings(kind="turbomind")
    load_engine(turbomind, checkpoint, vocabulary)
    assert (os.environ["TM_LOG_LEVEL"], os.environ["OMP_WAIT_POLICY"]) == ("WARNING", "PASSIVE")
    monkeypatch.setenv("TM_LOG_LEVEL", "INFO")
    load_engine(turbomind, checkpoint, vocabulary)
    assert os.environ["TM_LOG_LEVEL"] == "INFO"
