#!/usr/bin/env python3
"""Carry out a target of the Dockerfile in a temporary folder, where there is no container engine.

    python scripts/exercise_dockerfile.py [--target cpu]

The folder stands in for the image's file system: `/opt/venv`, `/app` and `/models` in instructions become
folders in it, this machine's Python stands in for the base image's, and all stages share it. FROM, ARG,
ENV, WORKDIR, COPY (of what .dockerignore lets through) and RUN are carried out in order. Commands that
make users are not, since they would change this machine; they are parsed and named as left out.
Then ENTRYPOINT and CMD are started, as the image's user where this machine can: without a key it must
refuse, with ALLOW_ANONYMOUS the image's own HEALTHCHECK must pass, and STOPSIGNAL must end it with 0.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLACES = ("/opt/venv", "/app", "/models")
CHANGES_THE_MACHINE = ("useradd", "groupadd", "install --directory --owner", "apt-get")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
START_S = 120
PORT = "8000"


@dataclass
class Stage:
    """One FROM and what follows; `parent` is another stage's name or an image."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Image:
    """What the instructions have left behind so far."""

    root: Path
    env: dict[str, str]
    workdir: Path
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stop_signal: str = ""


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) pairs, continued lines joined and comments dropped."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(kept))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines())
        if word
    ]


def parse(text: str) -> tuple[dict[str, Stage], dict[str, str]]:
    """Stages by name, and the arguments declared before the first."""
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    current: Stage | None = None
    for word, rest in instructions(text):
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            current = Stage(name.strip(), parent.strip())
            stages[current.name] = current
        elif current is None:
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            current.steps.append((word, rest))
    return stages, arguments


def needed(stages: dict[str, Stage], target: str) -> list[Stage]:
    """The target's stages in the order a builder would take: parents, copied ones, itself."""
    stage = stages[target]
    found: list[Stage] = needed(stages, stage.parent) if stage.parent in stages else []
    for word, rest in stage.steps:
        source = re.match(r"--from=(\S+)", rest) if word == "COPY" else None
        if source and source[1] in stages:
            found += needed(stages, source[1])
    unique = {one.name: one for one in [*found, stage]}
    return list(unique.values())


def local(image: Image, text: str) -> str:
    """The text with the image's folders replaced by ours."""
    for place in PLACES:
        text = re.sub(rf"(?<![\w./-]){place}\b", str(image.root) + place, text)
    return text


def carry_out(image: Image, word: str, rest: str) -> None:
    """One instruction."""
    actions = {
        "RUN": run, "COPY": copy, "ENV": set_variables, "ARG": set_arguments, "WORKDIR": change_folder,
    }  # fmt: skip
    if word in actions:
        actions[word](image, rest)
    elif word == "HEALTHCHECK":
        image.healthcheck = json.loads(rest.partition("CMD ")[2])
    elif word == "ENTRYPOINT":
        image.entrypoint = json.loads(rest)
    elif word == "CMD":
        image.command = json.loads(rest)
    elif word == "USER":
        image.user = rest
    elif word == "STOPSIGNAL":
        image.stop_signal = rest
    elif word not in ("VOLUME", "EXPOSE", "LABEL"):
        sys.exit(f"{word}: this script does not know how to carry that out")


def set_variables(image: Image, rest: str) -> None:
    for assignment in shlex.split(rest):
        name, _, value = assignment.partition("=")
        image.env[name] = local(image, value).replace("$PATH", image.env["PATH"])


def set_arguments(image: Image, rest: str) -> None:
    if not rest.endswith("="):
        set_variables(image, rest)


def change_folder(image: Image, rest: str) -> None:
    image.workdir = Path(local(image, rest))
    image.workdir.mkdir(parents=True, exist_ok=True)


def run(image: Image, command: str) -> None:
    if command.startswith(CHANGES_THE_MACHINE):
        print(f"LEFT OUT (it would change this machine): RUN {command}", flush=True)
        subprocess.run(["sh", "-n", "-c", command], check=True)
        return
    print(f"RUN {command}", flush=True)
    started = time.monotonic()
    command = re.sub(r"^python -m venv", f"{shlex.quote(base_python())} -m venv", command)
    subprocess.run(
        ["sh", "-ec", local(image, command)],
        check=True,
        cwd=image.workdir,
        env=image.env | {"PIP_QUIET": "1"},
    )
    print(f"  {time.monotonic() - started:.0f} s", flush=True)


def base_python() -> str:
    """The system's own Python where it is this one's version: every user may run that."""
    system = shutil.which(f"python{HERE}", path=os.defpath)
    if system and subprocess.run([system, "-c", "import ensurepip"], check=False).returncode == 0:
        return system
    return sys.executable


def copy(image: Image, rest: str) -> None:
    if rest.startswith("--from="):
        return  # all stages share one folder
    *sources, target = shlex.split(rest)
    allowed = set((ROOT / ".dockerignore").read_text().splitlines())
    for source in sources:
        if f"!{source}" not in allowed:
            sys.exit(f"COPY {source}: .dockerignore does not let it through")
        goal = image.workdir / target / (source if target.startswith("./") else "")
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(ROOT / source, image.workdir / target, ignore=ignored)
        else:
            shutil.copy(ROOT / source, goal)


def check_start(image: Image) -> None:
    """Start it as a container would be, and hold it to its promises."""
    port = free_port()
    env = image.env | {"INTERNVL_SERVER__PORT": port}
    command = [*image.entrypoint, *image.command]
    refused = subprocess.run(
        command,
        env=env,
        cwd=image.workdir,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    if refused.returncode != 1 or "allow_anonymous" not in refused.stderr:
        sys.exit(f"without a key it should have refused: {refused.returncode} {refused.stderr}")
    print("Without a key it refuses to start.", flush=True)
    env |= {"INTERNVL_SERVER__ALLOW_ANONYMOUS": "true", "INTERNVL_SERVER__HOST": "127.0.0.1"}
    process = subprocess.Popen(command, env=env, cwd=image.workdir, **user_of(image))
    try:
        wait_healthy(image, port, process)
        print(
            f"{' '.join(image.entrypoint)}: the HEALTHCHECK passes.",
            flush=True,
        )
        process.send_signal(getattr(signal, image.stop_signal))
        if process.wait(START_S) != 0:
            sys.exit(f"{image.stop_signal} ended it with {process.returncode}")
        print(f"{image.stop_signal} ends it with 0.")
    finally:
        if process.poll() is None:
            process.kill()


def user_of(image: Image) -> dict[str, Any]:
    """The image's user, as options of a process; none where this machine does not let it run Python."""
    if not image.user.isdigit() or image.user == "0":
        sys.exit(f"USER is {image.user!r}; it must be a number other than 0")
    number = int(image.user)
    options = {"user": number, "group": number, "extra_groups": []}
    python = image.root / "opt/venv/bin/python"
    try:
        subprocess.run([python, "-c", ""], check=True, capture_output=True, **options)
    except (PermissionError, subprocess.CalledProcessError):
        print(f"NOT CHECKED: that it runs as user {number}, who cannot run this machine's Python.")
        return {}
    os.chown(image.root / "models", number, number)
    print(f"Starts as user {number}.")
    return options


def wait_healthy(image: Image, port: str, process: "subprocess.Popen[bytes]") -> None:
    check = [part.replace(f":{PORT}/", f":{port}/") for part in image.healthcheck]
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        done = subprocess.run(check, env=image.env, capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.5)
    sys.exit("the HEALTHCHECK never passed")


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", default="cpu")
    target = parser.parse_args().target
    stages, arguments = parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    base = arguments["PYTHON_IMAGE"]
    if f":{HERE}." not in base:
        print(f"NOT CHECKED: {base}; Python {HERE} stands in for it.")
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "models").mkdir()
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("INTERNVL_", "VIRTUAL_ENV"))
        }
        image = Image(root, inherited, root)
        for stage in needed(stages, target):
            print(f"FROM {stage.parent} AS {stage.name}", flush=True)
            for word, rest in stage.steps:
                carry_out(image, word, rest)
        check_start(image)


if __name__ == "__main__":
    main()
