#!/usr/bin/env python3
"""Run the README's curl and SDK examples against a running server and check what they say.

python scripts/readme_request.py --port 8765
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]


def examples() -> tuple[str, str, str]:
    """The README's curl command, its Python program, and the answer it promises."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(bash|python|text)\n(.*?)```", readme, re.DOTALL)
    curl = next(code for kind, code in blocks if kind == "bash" and code.startswith("curl"))
    program = next(code for kind, code in blocks if kind == "python")
    answer = next(code for kind, code in blocks if kind == "text")
    return curl, program, answer.strip()


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


def streamed_text(events: str) -> str:
    """The text of an SSE answer."""
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    assert "data: [DONE]" in events, events
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)


def run(command: list[str]) -> str:
    """Standard output of a command, which must succeed."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Both examples must say what the README says they say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--pid", type=int, help="the server's process, to stop waiting when it ends"
    )
    options = parser.parse_args()
    port = options.port
    wait_ready(port, options.pid)
    curl, program, expected = (
        text.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for text in examples()
    )
    by_curl = streamed_text(run(["bash", "-c", curl]))
    by_sdk = run([sys.executable, "-c", program]).strip()
    print(f"curl: {by_curl}\nSDK:  {by_sdk}")
    assert by_curl == by_sdk == expected, f"the README promises: {expected}"


if __name__ == "__main__":
    main()
