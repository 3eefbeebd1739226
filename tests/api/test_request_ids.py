"""One id names a request in its header, in the id of its answer and in the engine."""

from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "prefix", "body"),
    [
        ("/v1/chat/completions", "chatcmpl-", CHAT),
        ("/v1/completions", "cmpl-", {"model": "tiny", "prompt": "hi"}),
        ("/v1/messages", "msg_", CHAT | {"max_tokens": 300}),
        ("/v1/responses", "resp_", {"model": "tiny", "input": "hi", "store": False}),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"x-request-id": "mine-1"}])
def test_the_answer_has_the_id_of_its_request(
    echo_server: LiveServer, path: str, prefix: str, body: Any, headers: dict[str, str]
) -> None:
    answer = httpx2.post(echo_server.url + path, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    assert request_id == headers.get("x-request-id", request_id)
    assert answer.json()["id"] == prefix + request_id
