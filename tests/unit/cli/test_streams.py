"""Standard streams that are closed, unread, or shown what others wrote; files that are absent."""

import subprocess
import sys

import pytest
from internvl_server.cli import main
from internvl_server.cli.commands import models
from internvl_server.errors import StartupError

COMMAND = [sys.executable, "-m", "internvl_server"]


def run_in_shell(script: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", script, "sh", *COMMAND, *words]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_closed_streams() -> None:
    done = run_in_shell('"$@" <&-', "chat")
    assert (done.returncode, done.stderr) == (2, b"internvl-server: there is no question\n")
    done = run_in_shell('"$@" >&- <&-', "completion", "bash")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("words", [["completion", "bash"], ["plan", "--model", "8B"]])
def test_output_that_nobody_reads(words: list[str]) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *words], stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_errors_cannot_control_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise StartupError("a\x1b[2Jb\nc\x9bd")

    monkeypatch.setattr(models, "run", fail)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "internvl-server: a[2Jb\ncd\n"
    monkeypatch.setattr(models, "run", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["models"]) == 130


def test_other_broken_pipes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(models, "run", fail)
    with pytest.raises(BrokenPipeError):
        main(["models"])


def test_a_file_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["batch", "absent.jsonl", "-o", "answers.jsonl", "--url", "http://127.0.0.1:1"]) == 2
    )
    expected = "internvl-server: absent.jsonl: No such file or directory\n"
    assert capsys.readouterr().err == expected
