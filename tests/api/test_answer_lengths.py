"""How long an answer may be when the request does not say."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from internvl_server.settings import Settings

from tests.live_server import LiveServer

MODEL = "tiny"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
COUNT = "/v1/chat/completions/input_tokens"


@pytest.fixture(scope="module")
def cpu_server(tiny_checkpoint: Path) -> Iterator[LiveServer]:
    engine = {"kind": "cpu", "cpu": {"default_max_tokens": 9}}
    with LiveServer(Settings(engine=engine, model={"path": str(tiny_checkpoint)})) as server:
        yield server


def counted(server: LiveServer, **options: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": HELLO} | options
    response = httpx2.post(server.url + COUNT, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def test_it_is_the_rest_of_the_context(echo_server: LiveServer) -> None:
    made = counted(echo_server)
    assert made["max_tokens"] == made["max_model_len"] - made["input_tokens"]
    assert counted(echo_server, max_tokens=7)["max_tokens"] == 7
    assert counted(echo_server, logprobs=True)["max_tokens"] == 1024


def test_the_server_may_limit_it(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(limits={"default_max_tokens": 5})
    assert counted(server)["max_tokens"] == 5
    client = server.client()
    chat = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert chat.usage is not None
    assert (chat.usage.completion_tokens, chat.choices[0].finish_reason) == (5, "length")
    response = client.responses.create(model=MODEL, input="hello")
    assert response.usage is not None
    assert (response.usage.output_tokens, response.status) == (5, "incomplete")
    completion = client.completions.create(model=MODEL, prompt="a prompt of more than 16 tokens")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 16


@pytest.mark.model
def test_the_cpu_engine_has_a_default(cpu_server: LiveServer) -> None:
    with cpu_server.client() as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body={"ignore_eos": True}
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == counted(cpu_server)["max_tokens"] == 9
