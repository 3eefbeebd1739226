"""The whole report, and what is left of it when something is broken."""

import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from internvl_server.cli import main
from internvl_server.doctor import access, command, engines, host, installation
from internvl_server.doctor.finding import Finding, ok

FINE = ["doctor", "--port", "0", "--engine", "echo"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported in other processes, and this machine has enough memory."""
    for module in (installation, engines):
        monkeypatch.setattr(module, "import_problem", lambda name: "")
    monkeypatch.setattr(host, "available_bytes", lambda: 1 << 40)


def report(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> dict[str, Any]:
    assert main([*FINE, "--json", *options]) == code
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def levels(found: dict[str, Any], name: str) -> list[str]:
    return [one["level"] for one in found["checks"] if one["check"] == name]


def test_a_healthy_machine(capsys):
    found = report(capsys)
    assert found["errors"] == 0
    names = {one["check"] for one in found["checks"]}
    assert {
        "python", "packages", "imports", "engine", "driver", "model", "weights", "tokenizer",
        "template", "tiles", "memory", "open files", "image processes", "port",
    } <= names  # fmt: skip


def test_a_broken_one(capsys, tmp_path):
    found = report(capsys, "--keys-file", str(tmp_path / "none"), "--dtype", "float32", code=1)
    assert found["errors"] == 1
    assert levels(found, "keys file") == ["error"]
    assert levels(found, "port") == ["ok"]


def test_lines_for_people(capsys, tmp_path):
    assert main([*FINE, "--keys-file", str(tmp_path / "none")]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("ok")] == ["error"]
    [line] = [line for line in lines if line.startswith("error")]
    assert line.startswith("error    keys file: server.keys_file ")
    assert "internvl-server keys NAME" in line
    assert last.startswith("1 error(s), 0 warning(s), ")


def test_settings_that_cannot_be_used(capsys):
    found = report(capsys, "--set", "server.prot=1", code=1)
    assert levels(found, "settings") == ["error"]
    assert levels(found, "python") == ["ok"]
    [line] = [one for one in found["checks"] if one["check"] == "settings"]
    assert "server.prot: there is no such setting" in line["found"]


@pytest.mark.parametrize("module", ["gpus", "checkpoint", "prompts", "host", "access", "engines"])
def test_a_module_that_cannot_be_imported(capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, f"internvl_server.doctor.{module}", None)
    found = report(capsys, code=1)
    assert levels(found, module) == ["error"]
    assert levels(found, "python") == ["ok"]
    assert found["errors"] == 1


def test_settings_and_models_that_cannot_be_imported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "internvl_server.doctor.subject", None)
    found = report(capsys, code=1)
    assert levels(found, "settings") == ["error"]


def test_a_check_that_fails(capsys, monkeypatch):
    def port(subject):
        yield ok("The first line.")
        raise RuntimeError("unexpected")

    monkeypatch.setattr(access, "CHECKS", (port, *access.CHECKS[1:]))
    found = report(capsys, code=1)
    assert levels(found, "port") == ["ok", "error"]
    assert "RuntimeError: unexpected" in found["checks"][-1]["found"]


def test_what_the_checked_parts_log_is_not_printed(capsys, monkeypatch):
    def port(subject):
        logging.getLogger("other").error("noise")
        yield ok("It is free.")

    monkeypatch.setattr(access, "CHECKS", (port,))
    assert main(FINE) == 0
    assert "noise" not in capsys.readouterr().err
    assert logging.root.manager.disable == 0


def test_findings_cannot_control_the_terminal(capsys, monkeypatch):
    def port(subject):
        yield ok("a\x1b[2Jb\nc")

    monkeypatch.setattr(access, "CHECKS", (port,))
    assert main(FINE) == 0
    assert "ok       port: a[2Jb c\n" in capsys.readouterr().out


def test_nothing_is_started(capsys, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the server was started")

    for name in ("serve.serve", "app.create_app", "engine.loader.load_engine"):
        monkeypatch.setattr(f"internvl_server.{name}", refuse)
    report(capsys)


def test_every_finding_that_is_not_good_says_what_to_do():
    for line in command.examine(None, "The settings cannot be used."):
        assert isinstance(line[1], Finding)
        assert (line[1].level == "ok") == (not line[1].remedy)


@pytest.mark.parametrize("package", ["pydantic", "pydantic_settings", "setproctitle"])
def test_a_package_without_which_no_command_works(package):
    """The command line itself cannot be imported then."""
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from internvl_server.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command_line = [sys.executable, "-c", program, *arguments]
        return subprocess.run(
            command_line, capture_output=True, text=True, env=os.environ, timeout=60, check=False
        )

    done = run("doctor", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert levels(found, "python") == ["ok"]
    assert levels(found, "settings") == ["error"]
    assert package in found["checks"][-1]["found"]
    done = run("serve")
    assert done.returncode == 1
    assert "`internvl-server doctor` says more" in done.stderr
