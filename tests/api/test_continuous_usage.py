"""`stream_options.continuous_usage_stats`: the usage so far in each chunk."""

import json
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "one two three four"}]},
    "/v1/completions": {"prompt": "one two three four", "max_tokens": 30},
}


def chunks(server: LiveServer, path: str, options: dict[str, Any], **more: Any) -> list[Any]:
    body = {"model": "tiny", "stream": True, "stream_options": options} | BODIES[path] | more
    answer = httpx2.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("path", sorted(BODIES))
@pytest.mark.parametrize("n", [1, 2])
def test_each_chunk_has_the_usage_so_far(echo_server: LiveServer, path: str, n: int) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *content, last = chunks(echo_server, path, options, n=n)
    assert last["choices"] == []
    counts = [chunk["usage"]["completion_tokens"] for chunk in content]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] > 0
    assert {chunk["usage"]["prompt_tokens"] for chunk in content} == {
        last["usage"]["prompt_tokens"]
    }
    for chunk in content:
        usage = chunk["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("path", sorted(BODIES))
def test_it_needs_no_usage_at_the_end(echo_server: LiveServer, path: str) -> None:
    content = chunks(echo_server, path, {"continuous_usage_stats": True})
    assert all(chunk["choices"] and chunk["usage"] for chunk in content)
    off = chunks(echo_server, path, {"continuous_usage_stats": False, "include_usage": None})
    assert all("usage" not in chunk for chunk in off)
