"""Which engine runs, and whether its packages are there."""

import importlib.metadata
from unittest.mock import Mock

import pytest
from internvl_server.doctor import engines


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch):
    """Makes packages missing."""
    real = importlib.metadata.version

    def remove(*names: str) -> None:
        def version(name: str) -> str:
            if name in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return remove


def test_the_engine_and_the_reason(found, subject):
    assert found(engines.engine, subject(engine={"kind": "cpu"})) == [
        ("ok", "engine.kind is cpu; using the CPU engine. ")
    ]


def test_a_type_that_the_engine_does_not_compute_in(found, subject):
    wrong = subject(engine={"kind": "cpu", "dtype": "float16"})
    [(level, text)] = found(engines.engine, wrong)
    assert level == "error"
    assert "float16" in text
    assert found(engines.engine_packages, wrong) == []


def test_settings_of_another_engine(found, subject):
    settings = {"kind": "echo", "turbomind": {"tp": 2}}
    [_, (level, text)] = found(engines.engine, subject(engine=settings))
    assert level == "warning"
    assert "engine.turbomind.tp" in text


def test_the_packages_of_the_engine(found, subject, missing, monkeypatch):
    imported = Mock(return_value="")
    monkeypatch.setattr(engines, "import_problem", imported)
    cpu = subject(engine={"kind": "cpu"})
    [(level, text)] = found(engines.engine_packages, cpu)
    assert level == "ok"
    assert f"torch {importlib.metadata.version('torch')}" in text
    imported.assert_called_once_with("internvl_server.engine.cpu.engine")

    monkeypatch.setattr(engines, "import_problem", lambda name: "OSError: libgomp.so.1")
    [(level, text)] = found(engines.engine_packages, cpu)
    assert level == "error"
    assert "libgomp.so.1" in text

    missing("torch")
    [(level, text)] = found(engines.engine_packages, cpu)
    assert level == "error"
    assert "torch is not installed" in text
    assert "internvl-server[cpu]" in text


def test_the_packages_of_the_gpu_engine(found, subject, missing):
    missing("lmdeploy", "xgrammar")
    [(level, text)] = found(engines.engine_packages, subject(engine={"kind": "turbomind"}))
    assert level == "error"
    assert "lmdeploy is not installed; xgrammar is not installed" in text
    assert "internvl-server[turbomind]" in text


def test_the_echo_engine_needs_a_package_for_formats_only(found, subject, missing):
    echo = subject(engine={"kind": "echo"})
    assert found(engines.engine_packages, echo) == found(engines.formats, echo) == []
    missing("llguidance")
    [(level, text)] = found(engines.formats, echo)
    assert level == "warning"
    assert "internvl-server[guided]" in text


def test_tracing_needs_packages(found, subject, missing):
    traced = subject(engine={"kind": "echo"}, server={"tracing": True})
    assert found(engines.tracing, subject(engine={"kind": "echo"})) == []
    assert [level for level, _ in found(engines.tracing, traced)] == ["ok"]
    missing("opentelemetry-sdk")
    [(level, text)] = found(engines.tracing, traced)
    assert level == "error"
    assert "opentelemetry-sdk is not installed" in text
