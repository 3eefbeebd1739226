"""A command of `internvl-server` in a pseudo-terminal of 80 columns."""

import contextlib
import os
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]
# Ctrl-C is for the processes whose terminal it is typed in.
PROGRAM = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from internvl_server.cli import main
sys.exit(main())
"""


class Terminal:
    """Runs a command until the context is left. Its standard streams are the terminal."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._fd, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=ROOT, env=os.environ | {"TERM": "xterm-256color"} | variables, start_new_session=True,
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        self._start = 0
        self.written = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def type(self, text: str) -> None:
        self._start = len(self.written)
        os.write(self._fd, text.encode())

    def read_until(self, pattern: str, timeout_s: float = 60) -> str:
        """What was written since the last `type`, without styles, once it contains the pattern."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, since := self._since()):
            assert time.monotonic() < deadline, since
            self._read()
        return since

    def exit_code(self, timeout_s: float = 60, *, key: str = "") -> int:
        """Of the process, which a key is to end.

        The key is typed again every two seconds: Python may miss a signal that arrives after it has written
        a prompt and before it waits for input.
        """
        deadline = time.monotonic() + timeout_s
        typed_at = 0.0
        while self._process.poll() is None:
            assert time.monotonic() < deadline, self.written
            if key and time.monotonic() - typed_at > 2:
                self.type(key)
                typed_at = time.monotonic()
            self._read()
        self._read()
        return self._process.returncode

    def _since(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x07", "", self.written[self._start :])

    def _read(self) -> None:
        if select.select([self._fd], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # the process has ended
                self.written += os.read(self._fd, 65536).decode(errors="replace")
