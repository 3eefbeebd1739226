"""The scripts of `internvl-server completion`, in the shells that they are for."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from internvl_server.cli import main

ROOT = Path(__file__).parents[3]
# What bash does when Tab is pressed after these words.
BASH = """
source "$1"; shift
[[ $(complete -p internvl-server) =~ -F\\ ([a-z_]+) ]]
COMP_WORDS=(internvl-server "$@"); COMP_CWORD=$#
"${BASH_REMATCH[1]}" internvl-server "${@: -1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

Complete = Callable[..., set[str]]


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[str], Path]:
    def write(shell: str) -> Path:
        assert main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
        return tmp_path / shell

    return write


@pytest.fixture
def complete(script: Callable[[str], Path]) -> Complete:
    """What bash offers for the last word of a command line."""
    path = script("bash")

    def offered(*words: str) -> set[str]:
        return set(output("bash", "--norc", "-c", BASH, "bash", str(path), *words).splitlines())

    return offered


def output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_commands(complete: Complete) -> None:
    assert complete("se") == {"serve"}
    assert {"serve", "batch", "plan", "bench", "chat", "keys", "completion"} <= complete("")


def test_options(complete: Complete) -> None:
    assert complete("serve", "--max-num") == {"--max-num-seqs"}
    assert complete("chat", "--te") == {"--temperature"}
    assert complete("serve", "--port", "8000", "--no-server.me") == {"--no-server.metrics"}


def test_values(complete: Complete) -> None:
    assert complete("completion", "") == {"bash", "zsh", "fish"}
    assert complete("serve", "--engine", "") == {"auto", "cpu", "turbomind", "echo"}
    assert complete("bench", "--endpoint", "c") == {"chat", "completions"}


def test_paths(complete: Complete) -> None:
    examples = {"tests/data/example.jpg", "tests/data/example.mp4"}
    assert complete("chat", "--image", "tests/data/ex") == examples
    assert complete("batch", "tests/data/ba") == {"tests/data/batch.jsonl"}
    assert complete("serve", "--config", "pypro") == {"pyproject.toml"}
    assert complete("serve", "--keys-file", "pypro") == {"pyproject.toml"}


@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish here")
def test_fish(script: Callable[[str], Path]) -> None:
    ask = f"source {script('fish')}; complete --do-complete 'internvl-server se'"
    assert output("fish", "--no-config", "-c", ask).startswith("serve\t")


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh here")
def test_zsh(script: Callable[[str], Path]) -> None:
    load = f'autoload -Uz compinit; compinit -D; eval "$(<{script("zsh")})"; print $_comps[internvl-server]'
    assert output("zsh", "-f", "-c", load) == "_shtab_internvl_server\n"
