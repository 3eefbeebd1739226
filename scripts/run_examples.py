"""Run the shell and Python examples of README.md and server/docs against a server with the demo model.

    python scripts/run_examples.py --port 8765

A `text` block after an example is its expected output. The Python blocks of a page are one program.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "server" / "docs").glob("*.md"))]
CHAT = "internvl-server chat"
SEPARATOR = "--- next example ---"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and text of each fenced block of a page."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [(kind, text) for kind, text in found]


def shell_examples(page: Path) -> list[tuple[str, str]]:
    """The page's commands that ask a server, each with the `text` block that follows it, or an empty text."""
    every = [*blocks(page), ("", "")]
    return [
        (command, out if then == "text" else "")
        for (kind, command), (then, out) in pairwise(every)
        if kind == "bash" and (command.startswith("curl") or CHAT in command)
    ]


def python_examples(page: Path) -> list[tuple[str, str]]:
    """The page's Python blocks, each with the `text` block that follows it."""
    every = blocks(page)
    pairs = pairwise(every)
    return [
        (code, out) for (kind, code), (then, out) in pairs if (kind, then) == ("python", "text")
    ]


def wait_ready(port: int, pid: int | None, timeout_s: float = 900) -> None:
    """Wait for the server, whose first run installs packages, as long as its process lives."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            if pid is not None:
                os.kill(pid, 0)  # raises when the server has ended
            time.sleep(0.5)


def run(command: list[str]) -> str:
    """Standard output of a command, which must succeed."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def streamed_text(events: str) -> str:
    """The text of a stream of chat chunks."""
    assert "data: [DONE]" in events, events
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)


def run_shell(command: str, expected_output: str, page: Path) -> None:
    """The output must be the expected one, if the page has one, or else an answer without an error.

    A streamed description must be the first one of the page's Python examples.
    """
    program = shlex.join([sys.executable, "-m", "internvl_server", "chat"])
    output = run(["bash", "-c", command.replace(CHAT, program)])
    if expected_output:
        assert output.strip() == expected_output.strip(), output
        return
    if '"stream": true' in command:
        expected = python_examples(page)[0][1].strip()
        assert streamed_text(output) == expected, output
        return
    answer = json.loads(output)
    assert "error" not in answer or answer["error"] is None, output


def run_python(page: Path, port: int) -> int:
    """Run the page's program and compare what each block prints. Returns the number of blocks."""
    examples = python_examples(page)
    program = f"\nprint({SEPARATOR!r})\n".join(code for code, _ in examples)
    output = run([sys.executable, "-c", program.replace(":8000", f":{port}")])
    printed = [part.strip() for part in output.split(SEPARATOR)]
    assert printed == [expected.strip() for _, expected in examples], output
    return len(examples)


def main() -> None:
    """Run every example of every page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--pid", type=int, help="the server's process: do not wait once it has ended"
    )
    options = parser.parse_args()
    wait_ready(options.port, options.pid)
    for page in PAGES:
        commands = shell_examples(page)
        for command, expected_output in commands:
            run_shell(command.replace(":8000", f":{options.port}"), expected_output, page)
        programs = run_python(page, options.port) if python_examples(page) else 0
        if commands or programs:
            print(f"{page.name}: {len(commands)} shell and {programs} Python examples ran")


if __name__ == "__main__":
    main()
