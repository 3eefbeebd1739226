"""The JSON form of the log: one object a line, whatever the event has."""

import json
import logging
from typing import Any

import pytest
from internvl_server.telemetry.logging import MAX_EVENT_BYTES, JsonFormatter


def parsed(message: str, **options: Any) -> dict[str, Any]:
    record = logging.LogRecord("server.x", logging.ERROR, "x.py", 1, message, (), None)
    vars(record).update(options)
    line = JsonFormatter().format(record)
    assert len(line.encode()) <= MAX_EVENT_BYTES
    assert line.isascii()
    assert line.isprintable()
    return json.loads(line)


def test_an_event_is_an_object() -> None:
    event = parsed("hello", created=0.25)
    assert event == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "ERROR",
        "logger": "server.x",
        "request_id": "-",
        "message": "hello",
    }


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\u2028", "\x7f", '"}\\', "\ud800", "图"])
def test_any_text_stays_in_its_member(text: str) -> None:
    assert parsed(text)["message"] == text


@pytest.mark.parametrize("character", ["x", "\n", "图", "\U0001f600", "\ud800"])
def test_a_long_event_is_cut(character: str) -> None:
    text = "begin" + character * 20_000 + "end"
    event = parsed(text, exc_info=(ValueError, ValueError(text), None))
    assert event["message"].startswith("begin")
    assert event["message"].endswith("end")
    assert event["traceback"].endswith("end\n")


def test_the_members_of_an_event_are_those_of_the_object() -> None:
    event = parsed("not used", members={"status": 200, "route": "/x"})
    assert event["status"] == 200
    assert event["route"] == "/x"
    assert "message" not in event
