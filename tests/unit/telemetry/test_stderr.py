"""Whoever reads the log cannot hold up the server."""

import logging
import os
import sys

import pytest
from internvl_server.telemetry.stderr import StderrHandler


def event(text: str) -> logging.LogRecord:
    return logging.LogRecord("n", logging.INFO, "", 0, text, None, None)


def test_a_full_pipe_takes_no_events_and_later_says_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as pipe, os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        handler = StderrHandler()
        handler.emit(event("first"))
        for _ in range(50):  # in a pipe of 64 kB
            handler.emit(event("x" * 8000))
        *whole, cut = pipe.read(1 << 20).decode().split("\n")
        assert whole == ["first"] + ["x" * 8000] * (len(whole) - 1)
        handler.emit(event("at last"))
        rest, lost, line, end = pipe.read(1 << 20).decode().split("\n")
    assert (rest, line, end) == ("", "at last", "")
    assert len(cut) == 4096
    assert lost == f"{51 - len(whole)} events were lost: nobody read stderr"


def test_a_full_disk_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    with stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        handler = StderrHandler()
        handler.emit(event("lost"))
        assert handler._num_lost == 1
