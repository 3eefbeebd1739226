"""Requests leave no cycle that holds their media: the collector that would find it seldom runs."""

import asyncio
import gc
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from internvl_server.api.admission import AdmissionGate
from internvl_server.core import GenerateRequest
from internvl_server.engine.stream import Abort, Stream
from internvl_server.errors import EngineOverloadedError
from internvl_server.pipeline import Generation
from internvl_server.pipeline.answers import Answer
from internvl_server.settings import Settings

from scripts.load.accounts.exchange import STAY, Leave, exchange, request_bytes
from scripts.load.bodies import fresh_picture
from scripts.load.media_host import MediaHost
from scripts.load.streams import Address
from tests.live.test_streams import wait_until
from tests.live_server import LiveServer, start_echo_server
from tests.scripted_engine import ScriptedEngine

HEAVY = {"EncodedMedia", "GenerateRequest", "ImageTiles", "bytearray", "memoryview", "ndarray"}


def request(urls: list[str], **fields: object) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*parts, {"type": "text", "text": "one two three four"}]
    body = {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
    return request_bytes("/v1/chat/completions", json.dumps(body | fields).encode())


def inline(number: int) -> list[str]:
    return [fresh_picture(300, 200, number * 4 + n) for n in range(4)]


def fetched(host: MediaHost, number: int) -> list[str]:
    return [host.url(300, 200, number * 8 + n) for n in range(8)]


CASES: dict[str, tuple[Callable[[MediaHost, int], bytes], Leave]] = {
    "answered": (lambda host, n: request(fetched(host, n)), STAY),
    "streamed": (lambda _, n: request(inline(n), stream=True), STAY),
    "choices": (lambda _, n: request(inline(n), n=2), STAY),
    "not found": (lambda host, n: request([*fetched(host, n), host.url(1, 1, 0)[:-4]]), STAY),
    "damaged": (lambda _, n: request([*inline(n), "data:image/png;base64,AAAA"]), STAY),
    "refused": (lambda _, n: request(inline(n), temperature=-1), STAY),
    "left while fetching": (lambda host, n: request(fetched(host, n)), Leave(after_s=0.01)),
    "left while decoding": (lambda _, n: request(inline(n)), Leave(after_s=0.03)),
    "left in a stream": (lambda _, n: request(inline(n), stream=True), Leave(after_received=200)),
    "left in an answer": (lambda _, n: request(inline(n)), Leave(after_s=0.1)),
}


async def test_ended_requests_hold_no_media(tiny_checkpoint: Path) -> None:
    engine = {"max_num_seqs": 4, "echo": {"token_delay_s": 0.02}}
    async with MediaHost() as host:
        media = host.settings() | {"cache_bytes": 0}
        with start_echo_server(tiny_checkpoint, engine=engine, media=media) as server:
            held = {case: await kinds_held(server, host, case) & HEAVY for case in CASES}
    assert held == {case: set() for case in CASES}


async def kinds_held(server: LiveServer, host: MediaHost, case: str) -> set[str]:
    """The types of what is left in cycles by a second request; the first starts what stays."""
    make, leave = CASES[case]
    await exchange(Address(server.port), make(host, 0), leave=leave)
    await settled(server.gate)
    gc.collect()
    gc.disable()
    try:
        await exchange(Address(server.port), make(host, 1), leave=leave)
        await settled(server.gate)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        # The client of this test is left as well, with the end of what it sent.
        return {type(thing).__name__ for thing in gc.garbage if not is_empty_view(thing)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def is_empty_view(thing: object) -> bool:
    return isinstance(thing, memoryview) and not thing.nbytes


async def settled(gate: AdmissionGate) -> None:
    """Until no request is left, and what it began has ended."""
    async with asyncio.timeout(60):
        while gate.num_in_flight:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)


@pytest.mark.parametrize("stream", [False, True])
def test_an_idle_connection_holds_no_generation(tiny_checkpoint: Path, stream: bool) -> None:
    body = {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "one"}]}
    with (
        start_echo_server(tiny_checkpoint) as server,
        httpx2.Client(trust_env=False, timeout=60) as client,
    ):
        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        assert client.post(url, json=body | {"stream": stream}).status_code == 200
        wait_until(lambda: not is_held(Generation))  # the server's thread may end it a little later


class FullAfterOne(ScriptedEngine):
    """Has room for the first answer to a request."""

    async def _accept(self, request: GenerateRequest, stream: Stream) -> Abort:
        if self.requests:
            raise EngineOverloadedError("The engine has no memory for this request now.")
        return await super()._accept(request, stream)


def test_choices_of_which_the_engine_refuses_one_leave_no_answer(tiny_checkpoint: Path) -> None:
    body = {"model": "tiny", "n": 2, "messages": [{"role": "user", "content": "one"}]}
    settings = Settings(model={"path": str(tiny_checkpoint)})
    with LiveServer(settings, FullAfterOne(end_id=0)) as server:
        assert server.post(body).status_code == 429
        wait_until(lambda: not is_held(Answer))  # or the meter holds the first one


def is_held(kind: type) -> bool:
    gc.collect()
    return any(type(thing) is kind for thing in gc.get_objects())
