import logging
import sys
from typing import Any

import pytest
from internvl_server.telemetry.logging import MAX_EVENT_BYTES, EventFormatter, configure_logs
from internvl_server.telemetry.request_id import current_request_id


def format_event(message: str, exc_info: Any = None) -> str:
    record = logging.LogRecord("server.x", logging.ERROR, "x.py", 1, message, (), exc_info)
    return EventFormatter().format(record)


def raised(text: str) -> Any:
    def fail() -> None:
        raise ValueError(text)

    try:
        fail()
    except ValueError:
        return sys.exc_info()


def test_an_event_has_the_level_the_logger_and_the_request_id() -> None:
    token = current_request_id.set("id-1")
    try:
        assert format_event("hello").endswith(" ERROR server.x [id-1] hello")
    finally:
        current_request_id.reset(token)


@pytest.mark.parametrize("forged", ["\n2026-01-01 INFO x", "\r\x1b[31m", "\u2028x", "\x85x"])
def test_a_message_stays_on_one_line(forged: str) -> None:
    assert len(format_event(f"a{forged}").splitlines()) == 1
    assert "\x1b" not in format_event(f"a{forged}")


@pytest.mark.parametrize("forged", ["\n2026-01-01 INFO x", "\r2026-01-01", "\x1b[31m"])
def test_nothing_is_forged_beside_a_traceback(forged: str) -> None:
    first, *others = format_event(f"message{forged}", raised(f"error{forged}")).splitlines()
    assert repr(forged)[1:-1] in first
    assert others
    assert all(line.startswith("  ") for line in others)
    assert "\x1b" not in "".join(others)


def test_a_long_event_keeps_its_message_and_its_exception() -> None:
    text = format_event("the message", raised("x" * 20_000 + "the end"))
    assert len(text) <= MAX_EVENT_BYTES
    assert "the message" in text.splitlines()[0]
    assert "Traceback" in text
    assert text.endswith("xthe end")
    assert all(line.startswith("  ") for line in text.splitlines()[1:])


@pytest.mark.parametrize("character", ["x", "\x00", "\n"])
def test_a_long_message_loses_its_middle(character: str) -> None:
    text = format_event("begin" + character * 20_000 + "end")
    shown = repr(character)[1:-1]
    assert len(text.splitlines()) == 1
    assert len(text) <= MAX_EVENT_BYTES
    assert f" begin{shown}{shown}" in text
    assert text.endswith(f"{shown}end")


def test_events_go_to_the_current_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logs("info")
        logging.getLogger("server.y").info("shown")
        logging.getLogger("server.y").debug("hidden")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    shown = capsys.readouterr().err
    assert shown.endswith("INFO server.y [-] shown\n")
    assert "hidden" not in shown
