"""The real server on a real socket, in a thread of the test process so that tests see its objects."""

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import anthropic
import httpx2
import openai
import uvicorn
from internvl_server.app import create_app
from internvl_server.engine.base import Engine
from internvl_server.serve.run import connections_of
from internvl_server.settings import Settings


class LiveServer:
    """Runs an app under uvicorn until the context is left."""

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.app = create_app(settings, engine)
        config = uvicorn.Config(
            self.app, port=0, http=connections_of(settings), loop="asyncio",
            log_config=None, timeout_keep_alive=600, timeout_graceful_shutdown=2, ws="none",
            server_header=False, access_log=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._clients: list[openai.OpenAI | anthropic.Anthropic] = []
        self._socket = config.bind_socket()
        self.port = self._socket.getsockname()[1]
        self.thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine(self) -> Any:
        return self.app.state.services.engine

    @property
    def gate(self) -> Any:
        return self.app.state.services.gate

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 60} | options
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", _strict_response_validation=True, **options
        )
        # One that is dropped is collected at any time, and its open socket warned of in any test.
        self._clients.append(client)
        return client

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120
        )

    def anthropic_client(self, **options: Any) -> anthropic.Anthropic:
        options = {"api_key": "none", "max_retries": 0, "timeout": 60} | options
        client = anthropic.Anthropic(base_url=self.url, _strict_response_validation=True, **options)
        self._clients.append(client)
        return client

    def post(self, body: Any, **options: Any) -> httpx2.Response:
        kind = {"content": body} if isinstance(body, bytes) else {"json": body}
        headers = {"content-type": "application/json"} | options.pop("headers", {})
        return httpx2.post(
            f"{self.url}/v1/chat/completions", headers=headers, timeout=60, **kind, **options
        )

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=60, **options)

    def wait_ready(self, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.TransportError):
                if self.get("/ready").status_code == 200:
                    return
            time.sleep(0.05)
        raise TimeoutError("the server did not become ready")

    def wait_idle(self, timeout_s: float = 60) -> None:
        """Until the engine has nothing left of any request, no place is taken, and all are counted."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            health = self.engine.health()
            is_free = not (health.num_running or health.num_waiting or self.gate.num_in_flight)
            if is_free and not self._server.server_state.tasks:
                return
            time.sleep(0.01)
        raise TimeoutError("something still runs")

    def __enter__(self) -> "LiveServer":
        self.thread.start()
        self.wait_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients:
            client.close()
        self._server.should_exit = True
        self.thread.join(timeout=120)  # a step of the CPU engine is not interrupted
        self._socket.close()
        assert not self.thread.is_alive(), "the server did not stop"


def start_echo_server(checkpoint: Path, **overrides: Any) -> LiveServer:
    """A server with the echo engine; `overrides` are whole sections, as dictionaries."""
    engine = {"kind": "echo", "max_num_seqs": 4} | overrides.pop("engine", {})
    model = {"path": str(checkpoint)} | overrides.pop("model", {})
    # A busy machine answers slowly, and what waits is not to be refused for it.
    limits = {"max_expected_wait_s": 3600, "queue_timeout_s": 60} | overrides.pop("limits", {})
    return LiveServer(Settings(engine=engine, model=model, limits=limits, **overrides))
