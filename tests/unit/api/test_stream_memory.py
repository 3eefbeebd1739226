"""What a running stream keeps, counted by Python."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from fastapi import FastAPI
from internvl_server.api.admission import GateState
from internvl_server.app import create_app
from internvl_server.core import GenerateRequest, TokenDelta
from internvl_server.engine.stream import Abort, Stream
from internvl_server.serve.connection import Connection
from internvl_server.serve.run import connections_of
from internvl_server.settings import Settings
from uvicorn.server import ServerState

from tests.scripted_engine import ScriptedEngine

_NUM_STREAMS = 50
# It is 15.5 kB. With what uvicorn sets aside, two timers and the headers it was 24.6 kB.
_MOST_BYTES = 17_500


class _HeldEngine(ScriptedEngine):
    """Gives a token when it is told to."""

    def __init__(self) -> None:
        super().__init__(end_id=0)
        self.info = replace(self.info, max_model_len=8192, max_num_seqs=64)
        self.streams: list[Stream] = []

    async def _accept(self, request: GenerateRequest, stream: Stream) -> Abort:
        self.streams.append(stream)
        return lambda: None


class _Transport(asyncio.Transport):
    """A connection that takes everything."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: Any) -> None:
        self.written += len(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """It is never closed."""

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize("num_words", [1, 1000])
async def test_a_running_stream_keeps_little_of_its_request(
    tiny_checkpoint: Path, num_words: int
) -> None:
    engine = _HeldEngine()
    app = create_app(Settings.model_validate({"model": {"path": str(tiny_checkpoint)}}), engine)
    async with app.router.lifespan_context(app):
        connect = _connector(app)
        while app.state.services.gate.state is not GateState.OPEN:
            await asyncio.sleep(0)
        connections = [await _open(connect, engine, num_words) for _ in range(5)]
        tracemalloc.start()
        try:
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            connections += [await _open(connect, engine, num_words) for _ in range(_NUM_STREAMS)]
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for connection in connections:
            connection.connection_lost(None)
        await asyncio.sleep(0.1)
    assert (after - before) / _NUM_STREAMS < _MOST_BYTES


def _connector(app: FastAPI) -> Callable[[], Connection]:
    config = uvicorn.Config(app, ws="none", log_config=None)
    config.load()
    make = connections_of(app.state.services.settings)
    state = ServerState()

    def connect() -> Connection:
        connection = make(config, state, {})
        connection.connection_made(_Transport())
        return connection

    return connect


async def _open(
    connect: Callable[[], Connection], engine: _HeldEngine, num_words: int
) -> Connection:
    text = "one " * num_words
    message = {"role": "user", "content": text}
    body = json.dumps(
        {"model": "tiny", "messages": [message], "stream": True, "max_tokens": 9}
    ).encode()
    head = "".join(f"X-Header-{number}: {number:050}\r\n" for number in range(20))
    connection = connect()
    connection.data_received(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{head}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    num_before = len(engine.streams)
    transport = cast(_Transport, connection.transport)
    async with asyncio.timeout(60):
        while len(engine.streams) == num_before or not transport.written:
            await asyncio.sleep(0)
    engine.streams[-1].put(TokenDelta((40,)))
    return connection
