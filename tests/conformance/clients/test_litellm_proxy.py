"""LiteLLM's proxy with configs/frontends/litellm.yaml, and the openai SDK as its client."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.conformance.clients.asking import (
    BASE_URL,
    MODEL,
    SEEN,
    TOOL,
    City,
    Shapes,
    hello,
    look,
    which_city,
)

CONFIG = Path(__file__).parents[3] / "configs" / "frontends" / "litellm.yaml"
KEY = "sk-of-the-proxy"
START_S = 120
ASK = {"model": MODEL, "temperature": 0, "max_tokens": 256}


@pytest.fixture(scope="module")
def internet() -> Iterator[socket.socket]:
    """The HTTP proxy through which LiteLLM would reach any other machine. It never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def url(internet: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running proxy, which ends with the module's tests."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "HTTP_PROXY": (outside := f"http://127.0.0.1:{internet.getsockname()[1]}"),
        "HTTPS_PROXY": outside,
        "NO_PROXY": "127.0.0.1",
        "SERVER_API_BASE": BASE_URL,
        "SERVER_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
        "PATH": os.environ["PATH"],
    }
    command = [os.environ["LITELLM_PROXY"], "--config", str(CONFIG), "--host", "127.0.0.1"]
    log = tmp_path_factory.mktemp("litellm") / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            [*command, "--port", port], env=environment, stdout=out, stderr=out
        ) as proxy,
    ):
        try:
            wait_alive(f"http://127.0.0.1:{port}/health/liveliness", proxy, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            proxy.terminate()


def wait_alive(address: str, proxy: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_S * 4):
        with suppress(httpx2.TransportError):
            httpx2.get(address, timeout=60).raise_for_status()
            return
        assert proxy.poll() is None, log.read_text()
        time.sleep(0.25)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def test_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, messages=hello())
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


def test_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, messages=hello())
    asked = {**ASK, "messages": hello(), "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_picture(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, messages=look())
    assert SEEN in answer.choices[0].message.content


def test_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(**ASK, messages=look(), response_format=Shapes)
    assert isinstance(answer.choices[0].message.parsed, Shapes)


def test_tools(client: openai.OpenAI) -> None:
    asked = {**ASK, "tools": [TOOL], "tool_choice": "required"}
    with client.chat.completions.stream(**asked, messages=which_city()) as stream:
        message = stream.get_final_completion().choices[0].message
    assert all(City.model_validate_json(x.function.arguments) for x in message.tool_calls)
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "Berlin"}
        for call in message.tool_calls
    ]
    messages = [*which_city(), message, *results]
    answer = client.chat.completions.create(
        **ASK, messages=messages, tools=[TOOL], tool_choice="none"
    )
    assert answer.choices[0].message.content


def test_models(client: openai.OpenAI) -> None:
    """It lists what its configuration names, with the context that it asked the server for."""
    [model] = client.models.list().data
    assert (model.id, model.model_extra["max_input_tokens"]) == (MODEL, 8192)


def test_extensions(client: openai.OpenAI) -> None:
    """A field that only this server has arrives, and the header about one that it has not comes back."""
    fields: dict[str, Any] = {"max_tiles": 1, "frobnicate": 3}
    asked = {**ASK, "messages": look(), "extra_body": fields}
    answer = client.chat.completions.with_raw_response.create(**asked)
    usage = answer.parse().usage.model_dump()
    assert [image["tiles"] for image in usage["prompt_tokens_details"]["images"]] == [1]
    assert answer.headers["llm_provider-x-ignored-fields"] == "frobnicate"


def test_too_long(client: openai.OpenAI) -> None:
    """LiteLLM recognises the server's code, says so in the message, and puts the status in `code`."""
    long = [{"role": "user", "content": "word " * 20_000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="ContextWindowExceededError") as caught:
            client.chat.completions.create(**ASK, messages=long, stream=stream)
        assert "maximum context length is 8192 tokens" in str(caught.value)
        assert (caught.value.type, caught.value.code) == ("invalid_request_error", "400")


def test_refused(client: openai.OpenAI) -> None:
    """Nothing is dropped: a field with a meaning that the server does not have is refused by name."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK, messages=hello(), modalities=["text", "audio"])
    assert caught.value.param == "modalities"


def num_left() -> float:
    """How many requests ended because their clients left."""
    text = httpx2.get(BASE_URL.removesuffix("/v1") + "/metrics", timeout=60).raise_for_status().text
    lines = [x for x in text.splitlines() if x.startswith("internvl_http_responses_total")]
    return sum(float(line.split()[-1]) for line in lines if 'status="499"' in line)


def test_leaving(client: openai.OpenAI) -> None:
    """A client that leaves the proxy ends its request in the server."""
    before = num_left()
    endless = {"max_tokens": 4096, "extra_body": {"ignore_eos": True, "min_tokens": 4096}}
    asked = {**ASK, **endless, "messages": hello(), "stream": True}
    with client.chat.completions.create(**asked) as stream:
        next(iter(stream))
    for _ in range(600):
        if num_left() > before:
            return
        time.sleep(0.1)
    pytest.fail("the server still computes the answer")


def test_offline(client: openai.OpenAI, internet: socket.socket) -> None:
    """Neither its start nor a request reaches for another machine."""
    client.chat.completions.create(**ASK, messages=hello())
    with pytest.raises(BlockingIOError):
        internet.accept()
