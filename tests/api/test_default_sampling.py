"""What sampling is used for fields that a request leaves out."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from internvl_server.core import SamplingParams

from tests.live_server import LiveServer

DEFAULTS = {"temperature": 0.5, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.2}
HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 3},
}


def sampling_of(server: LiveServer, path: str, **fields: Any) -> tuple[dict[str, Any], Any]:
    """The parameters that reached the engine, and the answer."""
    seen: list[SamplingParams] = []
    generate = server.engine.generate

    def record(request: Any) -> Any:
        seen.append(request.sampling)
        return generate(request)

    server.engine.generate = record
    body = {"model": "tiny"} | BODIES[path] | fields
    answer = httpx2.post(server.url + path, json=body, timeout=60)
    server.engine.generate = generate
    assert answer.status_code == 200, answer.text
    return {name: getattr(seen[0], name) for name in DEFAULTS}, answer.json()


@pytest.mark.parametrize("path", BODIES)
def test_openais_unless_the_server_has_others(
    start_server: Callable[..., LiveServer], echo_server: LiveServer, path: str
) -> None:
    plain = SamplingParams()
    assert sampling_of(echo_server, path)[0] == {name: getattr(plain, name) for name in DEFAULTS}
    server = start_server(model={"default_sampling": DEFAULTS})
    used, answer = sampling_of(server, path)
    assert used == DEFAULTS
    if path == "/v1/responses":
        assert (answer["temperature"], answer["top_p"]) == (0.5, 0.9)
    asked = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    assert sampling_of(server, path, **asked)[0] == asked
