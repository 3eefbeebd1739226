"""The access log has one line for each request, and nothing that a client said or is."""

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.live.test_streams import asked
from tests.live_server import LiveServer

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
KEY = "the-key-of-alice"
HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def server(start_server: Callable[..., LiveServer]) -> LiveServer:
    return start_server(
        server={"named_keys": [f"alice:{KEY}"]}, engine={"echo": {"token_delay_s": 0.01}}
    )


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[dict[str, Any]]]:
    """Waits for a number of lines and returns their members."""
    caplog.set_level(logging.INFO)

    def wait(number: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 60
        while len(found := records()) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(found) == number
        return found

    def records() -> list[dict[str, Any]]:
        access = [record for record in caplog.records if record.name == "server.access"]
        return [vars(record)["members"] for record in access]

    return wait


Lines = Callable[[int], list[dict[str, Any]]]


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_is_logged_with_what_it_took(
    server: LiveServer, lines: Lines, is_stream: bool
) -> None:
    answer = server.post({**CHAT, "stream": is_stream}, headers=HEADERS)
    assert answer.status_code == 200
    [line] = lines(1)
    assert ("first_ms" in line) == is_stream
    assert line["prompt_tokens"] > 1
    assert line["completion_tokens"] > 1
    assert line["ms"] >= line.pop("first_ms", 0) >= 0
    assert line.pop("queue_ms") >= 0
    assert line.pop("finish") == "stop"
    del line["prompt_tokens"], line["completion_tokens"], line["ms"]
    assert line == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "ok",
        "client": "alice",
    }


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_leaves_is_logged_as_499(
    server: LiveServer, lines: Lines, is_stream: bool
) -> None:
    body = {**CHAT, "stream": is_stream, "messages": [{"role": "user", "content": "hi " * 200}]}
    url = f"{server.url}/v1/chat/completions"
    if is_stream:
        with httpx2.stream("POST", url, json=body, headers=HEADERS, timeout=60) as answer:
            next(answer.iter_lines())
    else:
        asked(server, key=KEY, **body).close()
    [line] = lines(1)
    assert (line["status"], line["outcome"], line["client"]) == (499, "left", "alice")


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_failure_is_logged_as_one(
    start_server: Callable[..., LiveServer], lines: Lines, is_stream: bool
) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 2}})
    server.post({**CHAT, "stream": is_stream})
    [line] = lines(1)
    assert line["outcome"] == "failed"
    assert line["status"] == (200 if is_stream else 503)
    assert line["client"] == "anonymous"


def test_refusals_are_logged(server: LiveServer, lines: Lines) -> None:
    server.get("/v1/models")
    server.post(CHAT | {"model": "other"}, headers=HEADERS)
    server.get("/v1/models/none%20status=200%0aforged%1b[31m", headers=HEADERS)
    server.get("/nope%20status=200%0aforged%1b[31m" + "x" * 1000, headers=HEADERS)
    refused = [(line["status"], line["outcome"], line["client"]) for line in lines(4)]
    assert refused == [
        (401, "refused", "-"),
        (404, "refused", "alice"),
        (404, "refused", "alice"),
        (404, "refused", "alice"),
    ]
    paths = [line["path"] for line in lines(4)]
    assert paths[:2] == ["/v1/models", "/v1/chat/completions"]
    assert paths[2] == "/v1/models/none%20status%3D200%0Aforged%1B%5B31m"
    assert paths[3].startswith("/nope%20status%3D200%0Aforged%1B%5B31mx")
    assert len(paths[3]) < 1000


def test_a_line_of_text_begins_with_the_request_and_its_status(
    server: LiveServer, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    server.get("/v1/models", headers=HEADERS)
    lines(1)
    text = next(r.message for r in caplog.records if r.name == "server.access")
    assert re.fullmatch(r"GET /v1/models 200 ok client=alice ms=\d+", text)


def test_probes_are_not_logged(server: LiveServer, lines: Lines) -> None:
    server.get("/health")
    server.get("/v1/models", headers=HEADERS)
    assert len(lines(1)) == 1


def test_no_log_line_has_what_a_client_sent(
    start_server: Callable[..., LiveServer],
    lines: Lines,
    picture_url: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Keys, prompts and images are in no line, also where the request is wrong."""
    server = start_server(server={"named_keys": [f"alice:{KEY}"]})
    secret = "SECRET-PROMPT"
    parts = [
        {"type": "text", "text": secret},
        {"type": "image_url", "image_url": {"url": picture_url()}},
    ]
    good = {"model": "tiny", "messages": [{"role": "user", "content": parts}]}
    cut = {"type": "image_url", "image_url": {"url": picture_url()[:-40]}}
    bodies: list[Any] = [
        good,
        good | {"stream": True},
        good | {"temperature": secret},
        good | {"messages": [{"role": secret, "content": secret}]},
        good | {"messages": [{"role": "user", "content": [cut]}]},
        good | {"tools": [{"type": "function", "function": {"name": secret}}]},
        f'{{"model": "tiny", "messages": "{secret}" {secret}'.encode(),
    ]
    for body in bodies:
        server.post(body, headers=HEADERS)
    server.post(good, headers={"authorization": f"Bearer {KEY}x", "cookie": secret})
    lines(len(bodies) + 1)
    log = caplog.text
    assert KEY not in log
    assert secret not in log
    assert "data:image" not in log
    assert not re.search(r"[A-Za-z0-9+/]{64}", log)
    assert len(caplog.records) <= 5 * (len(bodies) + 1)


def test_a_thousand_bad_cookies_are_one_line(server: LiveServer, lines: Lines) -> None:
    cookies = "; ".join(f"\x01a{number}=(),/" for number in range(1000)).replace("\x01", "")
    server.get("/v1/models", headers=HEADERS | {"cookie": cookies})
    assert len(lines(1)) == 1
