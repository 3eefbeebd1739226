"""What takes time that grows with a body is done beside the event loop, so that other requests go on."""

import json
import threading
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer

SCHEMA = {"type": "object", "description": "x" * 100_000}
FUNCTION = {"name": "f", "parameters": SCHEMA}
CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "x"}],
    "tools": [{"type": "function", "function": FUNCTION}],
}
RESPONSES = {"model": "tiny", "input": "x", "tools": [{"type": "function", **FUNCTION}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", CHAT),
        ("chat/completions/input_tokens", CHAT),
        ("responses", RESPONSES),
        ("responses/input_tokens", RESPONSES),
    ],
)
def test_tools_are_written_out_off_the_loop(
    echo_server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    threads: set[threading.Thread] = set()
    dumps = json.dumps

    def noted(value: Any, **options: Any) -> str:
        text = dumps(value, **options)
        if len(text) >= 100_000:
            threads.add(threading.current_thread())
        return text

    data = dumps(body)
    monkeypatch.setattr("internvl_server.protocol.tools.json.dumps", noted)
    reply = httpx2.post(
        f"{echo_server.url}/v1/{path}",
        content=data,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert reply.status_code in (200, 400), reply.text
    assert threads
    assert echo_server.thread not in threads
