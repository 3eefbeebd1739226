"""The documentation: its tables are current, its links lead somewhere, and its commands are ones that work.

`scripts/run_examples.py` runs the curl and Python examples against a server; CI calls it.
"""

import argparse
import contextlib
import re
import shlex
import tomllib
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from internvl_server.cli.main import COMMANDS as NAMES
from internvl_server.cli.main import run_command as main

from scripts.run_examples import PAGES, blocks
from scripts.update_docs import updated

ROOT = Path(__file__).parents[2]
NOTE = (ROOT / "server" / "README.md").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PAGE_IDS = [page.name for page in PAGES]
PROGRAM = "internvl-server"
MAX_README_LINES = 140


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page's shell blocks, curl examples left out."""
    texts = [text for kind, text in blocks(page) if kind in ("bash", "console")]
    lines = [line for text in texts if not text.startswith("curl") for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert updated(text) == text, "run scripts/update_docs.py"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "server" / "README.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_architecture_note_names_files_that_exist() -> None:
    names = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:/|\.py))`", NOTE))
    assert len(names) > 50
    missing = [n for n in names if not (ROOT / n).exists() and not any(ROOT.glob(f"server/**/{n}"))]
    assert sorted(missing) == []


def test_the_architecture_note_shows_the_layers_that_are_checked() -> None:
    diagram = NOTE.partition("import-linter checks it:\n\n```\n")[2].partition("```")[0]
    shown = [set(layer.strip("{} ").split(" | ")) for layer in " ".join(diagram.split()).split("→")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    _main, *layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    assert shown == [set(layer.split(" | ")) for layer in layers]


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "server" / "docs" / "README.md"
    assert "server/docs/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(([\w-]+\.md)\)", index.read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(
        page.name for page in index.parent.glob("*.md") if page != index
    )


def test_the_page_of_the_command_line_has_every_command() -> None:
    found = {words[1] for page, words in COMMANDS if (page.name, words[0]) == ("cli.md", PROGRAM)}
    assert found == NAMES.keys()


def last_program(words: list[str]) -> list[str]:
    """The last command of a pipe, without variables before it and a file that it writes."""
    while "=" in words[0]:
        words = words[1:]
    if "|" in words:
        words = words[words.index("|") + 1 :]
    return words[: words.index(">")] if ">" in words else words


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(w) for _, w in COMMANDS])
def test_commands_work(page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    match last_program(words):
        case ["docker", "compose", *options]:
            check_compose(options)
        case ["docker", "build", "--target", target, *_]:
            assert f" AS {target}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
        case ["pip", "install", *options]:
            check_pip(options)
        case ["helm" | "kubectl" as program, command, *arguments]:
            check_kubernetes(program, command, arguments)
        case ["serve", "run" | "deploy", config] | ["litellm", "--config", config, *_]:
            assert (
                ROOT / config
            ).is_file()  # scripts/test-ray and scripts/conformance use the files
        case [program, *arguments] if program == PROGRAM:
            check_command_line(arguments)
        case [program, *arguments] if program.startswith(("scripts/", ".venv/")):
            paths = [word for word in (program, *arguments) if word.startswith("scripts/")]
            assert all((ROOT / path).exists() for path in paths)
        case _:
            pytest.fail(f"{page.name}: no check for {words}")


def check_compose(options: list[str]) -> None:
    profile = options[1] if options[0] == "--profile" else None
    [_, *services] = options[2:] if profile else options
    assert all(profile in COMPOSE["services"][name]["profiles"] for name in services)
    assert profile is None or services


def check_kubernetes(program: str, command: str, arguments: list[str]) -> None:
    """The command exists, and so do its files; scripts/test-helm renders the chart with its options."""
    known = {
        "helm": {"install", "upgrade"},
        "kubectl": {"apply", "create", "exec", "port-forward", "rollout"},
    }
    assert command in known[program]
    paths = [part for word in arguments for part in word.split("=") if part.startswith("configs/")]
    assert all((ROOT / path).exists() for path in paths)


def check_pip(arguments: list[str]) -> None:
    """Files of constraints exist, and every package is an extra of this project or pinned in one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", action="append", default=[], type=ROOT.joinpath)
    parser.add_argument("-r", type=ROOT.joinpath)
    parser.add_argument("--index-url")
    parser.add_argument("--no-deps", action="store_true")
    parser.add_argument("--force-reinstall", action="store_true")
    parser.add_argument("packages", nargs="*")
    options = parser.parse_args(arguments)
    assert options.packages or options.r.is_file()
    pinned = "".join(path.read_text(encoding="utf-8") for path in options.c)
    for package in options.packages:
        if not re.search(rf"^{re.escape(package)}==", pinned, re.MULTILINE):
            check_requirement(package)


def check_requirement(requirement: str) -> None:
    extras = re.fullmatch(r"\.\[([\w,]+)\]", requirement)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras
    assert {*extras[1].split(",")} <= project["optional-dependencies"].keys()


def check_command_line(arguments: list[str]) -> None:
    """The command line is understood; nothing is started."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(patch(f"internvl_server.{name}", return_value=0))
            for name in (
                "serve.serve", "batch.command.run_batch", "bench.command.bench", "chat.command.chat",
                "cli.commands.doctor.diagnose", "cli.commands.download._download",
            )
        ]  # fmt: skip
        stack.enter_context(patch("internvl_server.engine.turbomind.machine.check_machine"))
        if "--help" in arguments:
            stack.enter_context(pytest.raises(SystemExit, match="0"))
        assert main(arguments) == 0
        assert any(command.called for command in started) or arguments[0] in (
            "models",
            "plan",
            "keys",
            "completion",
        )
