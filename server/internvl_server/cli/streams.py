"""Standard streams that are closed, or that nobody reads."""

import os
import select
import sys
from pathlib import Path

__all__ = ["drop_unread_output", "open_closed_streams"]


def open_closed_streams() -> None:
    """Open the streams that were closed at the start: the next file or socket would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def drop_unread_output() -> bool:
    """If standard output is a pipe that nobody reads, have Python write the rest of it elsewhere at exit.

    Returns:
        Whether it is one.
    """
    stdout = sys.stdout.fileno()
    poll = select.poll()
    poll.register(stdout, 0)
    is_unread = any(event & select.POLLERR for _, event in poll.poll(0))
    if is_unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return is_unread
