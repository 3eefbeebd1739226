"""What a request's stages took: as a trace that a collector receives, and in the header `Server-Timing`."""

import asyncio
import io
import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from internvl_server.app import create_app
from internvl_server.cli import main
from internvl_server.errors import StartupError
from internvl_server.settings import Settings
from internvl_server.telemetry.record import RequestRecord, Stage, StageTime
from internvl_server.telemetry.timing import server_timing
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from PIL import Image

from tests.live_server import LiveServer, start_echo_server

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 9}
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


class Collector:
    """Receives traces by OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}
        receive = self._receive

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receive(self.path, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _receive(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {a.key: a.value.string_value for a in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += scope.spans

    def wait(self, name: str) -> Any:
        """The request's span, which is sent after its children."""
        return self.wait_all(name, 1)[0]

    def wait_all(self, name: str, number: int) -> list[Any]:
        """So many spans of a name."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [span for span in self.spans if span.name == name]
            if len(found) >= number:
                return found
            time.sleep(0.02)
        raise TimeoutError([span.name for span in self.spans])


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with collector.server as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield collector
        server.shutdown()


def values(span: Any) -> dict[str, Any]:
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind)
        if kind == "array_value":
            value = [item.string_value for item in value.values]
        found[attribute.key] = value
    return found


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_with_an_image_is_one_trace(
    start_server: Callable[..., LiveServer],
    collector: Collector,
    picture_url: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    is_stream: bool,
) -> None:
    caplog.set_level(logging.INFO, "server.access")
    server = start_server(server={"tracing": True}, engine={"echo": {"token_delay_s": 0.005}})
    picture = {"type": "image_url", "image_url": {"url": picture_url()}}
    message = {"role": "user", "content": [picture, {"type": "text", "text": "secret words"}]}
    body = {**CHAT, "messages": [message], "stream": is_stream}
    began = time.time_ns()
    answer = server.post(body, headers={"traceparent": TRACEPARENT})
    ended = time.time_ns()
    assert answer.status_code == 200
    root = collector.wait("POST /v1/chat/completions")
    assert root.trace_id.hex() == TRACE_ID
    assert root.parent_span_id.hex() == PARENT_ID
    assert answer.headers["traceresponse"] == f"00-{TRACE_ID}-{root.span_id.hex()}-01"
    children = {span.name: span for span in collector.spans if span is not root}
    assert set(children) == {"decode_media", "tile", "tokenize", "queue", "prefill", "decode"}
    for child in children.values():
        assert child.trace_id == root.trace_id
        assert child.parent_span_id == root.span_id
        assert root.start_time_unix_nano - 1_000_000 <= child.start_time_unix_nano
        assert child.start_time_unix_nano <= child.end_time_unix_nano
        assert child.end_time_unix_nano <= root.end_time_unix_nano + 1_000_000
    order = ["tokenize", "decode_media", "tile", "queue", "prefill", "decode"]
    starts = [children[name].start_time_unix_nano for name in order]
    assert starts == sorted(starts)
    assert began - 1_000_000 <= root.start_time_unix_nano <= ended
    found = values(root)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.usage.output_tokens"] == 9
    assert found["gen_ai.response.finish_reasons"] == ["length"]
    assert found["internvl.num_tiles"] >= 1
    assert found["internvl.request_id"] == answer.headers["x-request-id"]
    assert collector.resource["service.name"] == "internvl-server"
    assert "secret" not in str(collector.spans)
    access = [record for record in caplog.records if record.name == "server.access"]
    [line] = [vars(record)["members"] for record in access]
    assert line["trace_id"] == TRACE_ID
    assert line["images"] == 1
    assert line["tiles"] == found["internvl.num_tiles"]


def test_refusals_and_failures_say_so_in_their_span(
    start_server: Callable[..., LiveServer], collector: Collector
) -> None:
    server = start_server(server={"tracing": True}, engine={"echo": {"fail_after_tokens": 2}})
    assert server.get("/health").status_code == 200
    assert server.post({**CHAT, "model": "other"}).status_code == 404
    refused = collector.wait("POST /v1/chat/completions")
    assert values(refused)["error.type"] == "model_not_found"
    assert refused.parent_span_id == b""
    assert refused.status.code == 0
    collector.spans.clear()
    server.post({**CHAT, "stream": True})
    failed = collector.wait("POST /v1/chat/completions")
    assert values(failed)["error.type"] == "engine_error"
    assert failed.status.code == 2
    assert not [span for span in collector.spans if "health" in span.name]


def test_a_caller_that_is_not_sampled_is_not_traced(
    start_server: Callable[..., LiveServer], collector: Collector
) -> None:
    server = start_server(server={"tracing": True})
    server.post(CHAT, headers={"traceparent": TRACEPARENT[:-1] + "0"})
    server.post(CHAT, headers={"traceparent": TRACEPARENT.replace("0af", "1af")})
    span = collector.wait("POST /v1/chat/completions")
    assert span.trace_id.hex().startswith("1af")
    assert {s.trace_id for s in collector.spans} == {span.trace_id}


def test_requests_do_not_notice_that_the_collector_is_gone(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    server = start_server(server={"tracing": True})
    for _ in range(3):
        assert server.post(CHAT).status_code == 200


def test_a_collector_that_never_answers_does_not_hold_up_the_end(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "120")
    with silent, start_echo_server(tiny_checkpoint, server={"tracing": True}) as server:
        assert server.post(CHAT).status_code == 200
        server.__exit__(None, None, None)  # fails if the server does not end in half a minute


async def test_a_fetched_image_has_a_span_and_its_host_learns_nothing(
    start_server: Callable[..., LiveServer], collector: Collector
) -> None:
    heads: list[bytes] = []
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    png = buffer.getvalue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        length = f"content-length: {len(png)}\r\n\r\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n" + length + png)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.2", 0) as host:
        port = host.sockets[0].getsockname()[1]
        server = start_server(
            server={"tracing": True},
            media={"allowed_private_networks": ["127.0.0.2/32"], "allowed_ports": [port]},
        )
        url = {"url": f"http://127.0.0.2:{port}/a.png"}
        content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "what?"}]
        body = {**CHAT, "messages": [{"role": "user", "content": content}]}
        answer = await asyncio.to_thread(server.post, body, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 200, answer.text
    root = await asyncio.to_thread(collector.wait, "POST /v1/chat/completions")
    names = {span.name for span in collector.spans if span.parent_span_id == root.span_id}
    stages = {"fetch", "decode_media", "tile", "tokenize", "queue", "prefill", "decode"}
    assert names == stages
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    [head] = heads
    assert b"traceparent" not in head.lower()


def test_a_client_that_leaves_has_a_span(
    start_server: Callable[..., LiveServer], collector: Collector
) -> None:
    server = start_server(server={"tracing": True}, engine={"echo": {"hang_after_tokens": 3}})
    url = f"{server.url}/v1/chat/completions"
    body = {**CHAT, "max_tokens": 100, "stream": True}
    with httpx2.stream("POST", url, json=body, timeout=60) as answer:
        events = answer.iter_bytes()
        next(events)
    left = values(collector.wait("POST /v1/chat/completions"))
    assert left["internvl.outcome"] == "left"
    assert left["http.response.status_code"] == 499
    assert 0 < left["gen_ai.usage.output_tokens"] < 100


def test_tracing_without_the_packages_does_not_start(
    tiny_checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "internvl_server.telemetry.tracing", None)
    settings = Settings(
        model={"path": str(tiny_checkpoint)}, engine={"kind": "echo"}, server={"tracing": True}
    )
    with pytest.raises(StartupError, match=re.escape("internvl-server[otel]")):
        create_app(settings)


def test_requests_of_a_batch_are_traced(
    start_server: Callable[..., LiveServer], collector: Collector, tmp_path: Path
) -> None:
    server = start_server(server={"tracing": True})
    lines, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    lines.write_text(json.dumps(request), encoding="utf-8")
    arguments = ["batch", str(lines), "-o", str(results), "--url", server.url, "--server.tracing"]
    assert main(arguments) == 0
    sent, served = sorted(
        collector.wait_all("POST /v1/chat/completions", 2), key=lambda span: span.parent_span_id
    )
    assert (sent.parent_span_id, served.parent_span_id) == (b"", sent.span_id)
    assert sent.trace_id == served.trace_id
    assert values(sent)["http.response.status_code"] == 200


@pytest.mark.parametrize("is_stream", [False, True])
def test_answers_say_what_their_stages_took(echo_server: LiveServer, is_stream: bool) -> None:
    answer = echo_server.post({**CHAT, "stream": is_stream})
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    engine = set() if is_stream else {"prefill", "decode"}
    assert set(parts) == {"tokenize", "queue", "total"} | engine
    assert all(float(value) >= 0 for value in parts.values())
    assert float(parts["total"]) >= float(parts["tokenize"])


def test_times_can_be_kept_back(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"server_timing": False})
    assert "server-timing" not in server.post(CHAT).headers


def test_stages_at_the_same_time_count_once() -> None:
    record = RequestRecord("id", started=10.0)
    times = [(11.0, 12.0), (11.5, 13.0), (15.0, 15.25)]
    record.stages = [StageTime(Stage.FETCH, *time) for time in times]
    assert server_timing(record, 20.0) == "fetch;dur=2250.0, total;dur=10000.0"
