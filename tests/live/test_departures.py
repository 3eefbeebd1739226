"""A client that leaves where no socket can be made to: between two frames of its answer."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from internvl_server.app import create_app
from internvl_server.settings import Settings
from starlette.types import Message

CHAT = {"messages": [{"role": "user", "content": "hello " * 20}]}
RAW = {"prompt": ["hello " * 20] * 2, "max_tokens": 100}
MESSAGE = CHAT | {"max_tokens": 100}


class StuckClient:
    """Sends one request, takes a few messages of the answer, then no more; and at last leaves."""

    def __init__(self, body: dict[str, Any], num_taken: int) -> None:
        self._requests = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self._num_left = num_taken
        self.is_stuck = asyncio.Event()
        self.leaves = asyncio.Event()

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        assert message.get("status", 200) == 200, message
        self._num_left -= 1
        if self._num_left < 0:
            self.is_stuck.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("path", "fields", "num_choices"),
    [
        ("chat/completions", CHAT, 1),
        ("chat/completions", CHAT, 3),
        ("completions", RAW, 1),
        ("completions", RAW, 3),
        ("messages", MESSAGE, 1),
    ],
)
async def test_all_choices_are_left_in_order(
    tiny_checkpoint: Path, path: str, fields: dict[str, Any], num_choices: int
) -> None:
    slow: Any = {"kind": "echo", "max_num_seqs": 8, "echo": {"token_delay_s": 0.01}}
    model: Any = {"path": str(tiny_checkpoint)}
    app = create_app(Settings(engine=slow, model=model))
    client = StuckClient({"model": "tiny", "stream": True, "n": num_choices} | fields, 10)
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": f"/v1/{path}", "raw_path": f"/v1/{path}".encode(), "root_path": "",
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    services = app.state.services
    async with app.router.lifespan_context(app):
        while not services.engine.health().is_ready:
            await asyncio.sleep(0.01)
        serving = asyncio.create_task(app(scope, client.receive, client.send))
        await client.is_stuck.wait()
        client.leaves.set()
        await serving
        engine = services.engine
        num_answers = num_choices * len(fields.get("prompt", "1"))
        assert engine.num_aborted == engine.num_started == num_answers
        assert (engine.num_running, engine.num_waiting, services.gate.num_in_flight) == (0, 0, 0)
