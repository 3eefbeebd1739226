"""Python, its packages, and whether they can be imported."""

import importlib.metadata
import os
import platform
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from internvl_server.doctor import installation
from internvl_server.doctor.installation import import_problem, package_problems, requirements
from packaging.requirements import Requirement


def test_the_version_of_python(found, monkeypatch):
    [(level, text)] = found(installation.python)
    assert level == "ok"
    assert platform.python_version() in text
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.4")
    [(level, text)] = found(installation.python)
    assert level == "error"
    assert "3.10.4" in text
    assert ">=3.11" in text


@pytest.mark.parametrize(("name", "level"), [("linux", "ok"), ("darwin", "warning")])
def test_the_system(found, monkeypatch, name, level):
    monkeypatch.setattr(installation, "sys", SimpleNamespace(platform=name))
    assert [one for one, _ in found(installation.system)] == [level]


def test_the_versions_of_packages(found, monkeypatch):
    assert [level for level, _ in found(installation.packages)] == ["ok"]
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "av":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.26.0" if name == "numpy" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    [(level, text)] = found(installation.packages)
    assert level == "error"
    assert "av is not installed" in text
    assert "numpy is 1.26.0, and <3,>=2 is needed" in text
    assert "pydantic" not in text


def test_sources_that_are_not_installed(found, monkeypatch):
    def refuse(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", refuse)
    monkeypatch.setattr(importlib.metadata, "requires", refuse)
    [(level, text)] = found(installation.python)
    assert level == "warning"
    assert "is not installed" in text
    assert found(installation.packages) == list(requirements("cpu")) == []


def test_requirements_of_an_extra_are_those_that_it_adds():
    basic, cpu, gpu = (
        {one.name for one in requirements(extra)} for extra in ("", "cpu", "turbomind")
    )
    assert {"numpy", "pydantic", "av"} <= basic
    assert cpu == {"torch", "safetensors", "llguidance"}  # the last one by the extra `guided`
    assert {"lmdeploy", "xgrammar"} <= gpu
    assert not basic & (cpu | gpu)


def test_a_version_of_a_build_is_that_version():
    version = importlib.metadata.version("torch")  # may end in +cpu
    assert package_problems([Requirement(f"torch=={version.partition('+')[0]}")]) == []


def module(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that another process of this test can import."""
    (folder / "broken_module.py").write_text(text)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return "broken_module"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ""),
        ("print('noise'); import warnings; warnings.warn('noise')", ""),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise OSError('libav.so: no such file')", "OSError: libav.so: no such file"),
        ("import os; os.abort()", "the process was ended by SIGABRT"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_an_import_that_fails_in_any_way(tmp_path, monkeypatch, text, says):
    assert import_problem(module(tmp_path, text, monkeypatch)) == says


def test_an_import_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "_IMPORT_S", 0.3)
    name = module(tmp_path, "import time; time.sleep(60)", monkeypatch)
    assert import_problem(name) == "it takes more than 0 s"


def test_the_server_is_imported(found, monkeypatch):
    asked = Mock(return_value="")
    monkeypatch.setattr(installation, "import_problem", asked)
    assert [level for level, _ in found(installation.imports)] == ["ok"]
    asked.assert_called_once_with("internvl_server.serve")
    monkeypatch.setattr(installation, "import_problem", lambda name: "ImportError: libx.so")
    [(level, text)] = found(installation.imports)
    assert level == "error"
    assert "cannot be imported: ImportError: libx.so." in text
